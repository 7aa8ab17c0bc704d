"""Semantic checks on models: what the API server relies on when no manifest loader came before it."""

from typing import Any

import pytest

from milpa_ray.api import KINDS, Node, Pod, Secret
from milpa_ray.api.manifest import check_object
from milpa_ray.api.meta import ObjectMeta, Resource
from milpa_ray.api.network import Service
from milpa_ray.api.pod import PodSpec, Unit
from milpa_ray.api.validation import MAX_ANNOTATIONS, NOT_CREATABLE, validate
from milpa_ray.api.workloads import ReplicaSet

UNIT = {"name": "main", "image": "nginx"}


def errors_of(model: type[Resource], spec: dict[str, Any], **metadata: Any) -> list[str]:
    """Semantic errors of an object with a good name; its structure must be right."""
    body = {"metadata": {"name": "web"} | metadata, "spec": spec}
    resource, errors = check_object(model, body)
    assert resource is not None
    assert [str(error) for error in validate(resource)] == [str(error) for error in errors]
    return [str(error) for error in errors]


def pod_errors(spec: dict[str, Any], **metadata: Any) -> list[str]:
    return errors_of(Pod, {"units": [UNIT]} | spec, **metadata)


def unit_errors(fields: dict[str, Any], **spec: Any) -> list[str]:
    return pod_errors({"units": [UNIT | fields]} | spec)


def service_errors(**spec: Any) -> list[str]:
    return errors_of(Service, {"selector": {"app": "web"}} | spec)


def test_models_built_in_code_are_checked() -> None:
    good = Pod(metadata=ObjectMeta(name="web"), spec=PodSpec(units=(Unit(name="main", image="nginx"),)))
    assert validate(good) == []
    bad = good.model_copy(update={"metadata": ObjectMeta(), "api_version": "v2", "kind": "Node"})
    assert [error.field for error in validate(bad)] == ["kind", "apiVersion", "metadata.name"]


def test_every_kind_that_users_cannot_create_says_why() -> None:
    assert {kind.name for kind in KINDS if not kind.creatable} == set(NOT_CREATABLE)
    (error,) = validate(Node(metadata=ObjectMeta(name="n")))
    assert "standbyNodes" in error.reason


def test_a_full_pod_is_good() -> None:
    spec = {
        "restartPolicy": "Never",
        "initUnits": [{"name": "init", "image": "nginx"}],
        "units": [
            UNIT
            | {
                "command": ["/bin/sh"],
                "args": ["-c", "true"],
                "env": [
                    {"name": "A", "value": "b"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "p", "mountPath": "/p"}],
                "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "udp"}],
                "workingDir": "/v",
                "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "runAsUser": 1},
            }
        ],
        "volumes": [
            {"name": "v", "emptyDir": {"medium": "memory", "sizeLimit": 5}},
            {"name": "p", "packagePath": {"path": "milpactl"}},
        ],
        "imagePullSecrets": ["creds"],
        "instanceType": "c5*",
        "spot": {"policy": "Preferred"},
        "resources": {
            "cpu": 0.5,
            "memory": "1Gi",
            "gpu": 1,
            "volumeSize": "10Gi",
            "sustainedCPU": False,
            "arch": "ARM64",
        },
        "placement": {"availabilityZone": "us-east-1a"},
        "securityContext": {"supplementalGroups": [1], "sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]},
    }
    annotations = {"pod.elotl.co/milpactl-volume-name": "p"}
    assert pod_errors(spec, annotations=annotations, labels={"app": "web"}) == []


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"instanceType": "t3 nano"}, "spec.instanceType: 't3 nano' is no instance type"),
        ({"placement": {"availabilityZone": "US"}}, "spec.placement.availabilityZone: 'US' is no availability zone"),
        (
            {"resources": {"volumeSize": "1Ei"}},
            "spec.resources.volumeSize: '1Ei' is no size of a root volume; write 1Gi to",
        ),
        ({"resources": {"volumeSize": "64.1Ti"}}, "spec.resources.volumeSize: '64.1Ti' is no size of a root volume"),
        ({"resources": {"volumeSize": "1023Mi"}}, "spec.resources.volumeSize: '1023Mi' is no size of a root volume"),
        ({"resources": {"volumeSize": "big"}}, "spec.resources.volumeSize: 'big' is no quantity"),
        ({"resources": {"arch": "x86"}}, "spec.resources.arch: 'x86' is not known; use amd64 or arm64"),
        ({"volumes": [{"name": "V", "emptyDir": {}}]}, "spec.volumes[0].name: 'V' must hold lower-case"),
        ({"volumes": [{"name": "v"}]}, "spec.volumes[0]: give 'emptyDir: {}'"),
        (
            {"volumes": [{"name": "v", "emptyDir": {}, "packagePath": {"path": "a"}}]},
            "spec.volumes[0]: give only one of emptyDir and packagePath",
        ),
        (
            {"volumes": [{"name": "v", "packagePath": {"path": "../a"}}]},
            "spec.volumes[0].packagePath.path: must be a path",
        ),
        (
            {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]},
            "spec.volumes[1].name: duplicate name 'v'; volumes[0] has it already",
        ),
        ({"securityContext": {"supplementalGroups": [-1]}}, "supplementalGroups[0]: must be at least 0"),
        ({"securityContext": {"sysctls": [{"name": "A", "value": "1"}]}}, "sysctls[0].name: 'A' is no sysctl"),
        ({"units": [{"name": f"u{i}", "image": "a"} for i in range(101)]}, "spec.units: a pod holds at most 100 units"),
    ],
)
def test_wrong_pods(spec: dict[str, Any], error: str) -> None:
    (found,) = pod_errors(spec)
    assert error in found


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": "Main"}, "spec.units[0].name: 'Main' must hold"),
        ({"image": "A B"}, "spec.units[0].image: 'A B' is no image reference"),
        ({"workingDir": "app"}, "workingDir: 'app' must be an absolute path, such as '/app'"),
        ({"command": ["a\0"]}, "command: must not hold a zero byte"),
        ({"env": [{"name": "1A"}]}, "env[0].name: '1A' must hold"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "S", "key": "k"}}}]}, "secretKeyRef.name: 'S'"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k/"}}}]}, "secretKeyRef.key: 'k/'"),
        ({"ports": [{"port": 1, "name": "A"}]}, "ports[0].name: 'A' must hold"),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}, "ports[1].name: duplicate name 'a'"),
        ({"ports": [{"port": -1}]}, "ports[0].port: must be 1 to 65535 for TCP, not -1"),
        ({"ports": [{"port": 256, "protocol": "icmp"}]}, "ports[0].port: 256 is no ICMP type; use 0 to 255, or -1"),
        ({"securityContext": {"capabilities": {"add": ["net"]}}}, "capabilities.add[0]: 'net' is no capability"),
    ],
)
def test_wrong_units(fields: dict[str, Any], error: str) -> None:
    (found,) = unit_errors(fields)
    assert error in found


@pytest.mark.parametrize(
    ("mounts", "error"),
    [
        ([("cash", "/c")], "volumeMounts[0].name: names no volume of the pod: 'cash'; did you mean 'cache'?"),
        ([("cache", "c")], "volumeMounts[0].mountPath: 'c' must be an absolute path"),
        ([("cache", "/a/../b")], "volumeMounts[0].mountPath: must not hold '..'"),
        ([("cache", "/c"), ("cache", "/c/")], "volumeMounts[1].mountPath: duplicate mountPath '/c'"),
    ],
)
def test_wrong_mounts(mounts: list[tuple[str, str]], error: str) -> None:
    listed = [{"name": name, "mountPath": path} for name, path in mounts]
    (found,) = unit_errors({"volumeMounts": listed}, volumes=[{"name": "cache", "emptyDir": {}}])
    assert error in found


def test_the_milpactl_volume_must_be_there() -> None:
    (found,) = pod_errors({}, annotations={"pod.elotl.co/milpactl-volume-name": "tools"})
    assert "spec.volumes: holds no volume 'tools'" in found


def test_annotations_are_bounded_and_free_in_value() -> None:
    assert pod_errors({}, annotations={"a": "any text\nat all"}) == []
    assert "metadata.annotations.-a: '-a' must hold" in pod_errors({}, annotations={"-a": ""})[0]
    (found,) = pod_errors({}, annotations={"a": "b" * MAX_ANNOTATIONS})
    assert "metadata.annotations: hold 262145 characters" in found


def test_templates() -> None:
    (found,) = errors_of(ReplicaSet, {"replicas": 1, "template": {"spec": {"units": []}}})
    assert found.startswith("spec.template.spec.units: is required")
    found = errors_of(ReplicaSet, {"replicas": 2_000_000, "template": {"spec": {"units": [UNIT]}}})[0]
    assert found == "spec.replicas: must be at most 1000000"
    template = {"metadata": {"labels": {"a": "-"}}, "spec": {"units": [UNIT]}}
    assert "spec.template.metadata.labels.a" in errors_of(ReplicaSet, {"template": template})[0]


# ---------------------------------------------------------------- services


def test_a_full_service_is_good() -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 8080}, {"name": "https", "port": 443, "nodePort": 8443}]
    assert service_errors(type="loadbalancer", ports=ports, sourceRanges=["VPC", "vpc", "0.0.0.0/0", "::/0"]) == []
    assert service_errors(ports=[{"port": -1, "protocol": "icmp"}]) == []


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"selector": {}}, "spec.selector: is required: name at least one label"),
        ({"selector": {"a": "-"}}, "spec.selector.matchLabels.a: label's value"),
        (
            {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "values: operator In needs at least one",
        ),
        (
            {"selector": {"matchExpressions": [{"key": "a", "operator": "exists", "values": ["b"]}]}},
            "values: operator Exists takes no values",
        ),
        ({"selector": {"matchExpressions": [{"key": "-", "operator": "Exists"}]}}, "matchExpressions[0].key: '-'"),
        ({"type": "LoadBalancer"}, "spec.ports: is required for type LoadBalancer"),
        (
            {"type": "LoadBalancer", "ports": [{"port": 80}]},
            "spec.ports[0].nodePort: is required for type LoadBalancer",
        ),
        (
            {"type": "LoadBalancer", "ports": [{"port": 53, "nodePort": 53, "protocol": "UDP"}]},
            "spec.ports[0].protocol: must be TCP for type LoadBalancer",
        ),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 2}]}, "spec.ports[1].name: is required when there are several"),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}, "spec.ports[1].name: duplicate name 'a'"),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}, "spec.ports[1].port: duplicate port 'TCP 1'"),
        ({"sourceRanges": ["10.0.0.1"]}, "spec.sourceRanges[0]: '10.0.0.1' has no prefix length; write '10.0.0.1/32'"),
        ({"sourceRanges": ["10.1.0.0/8"]}, "'10.1.0.0/8' has bits set beyond its prefix; write '10.0.0.0/8'"),
        (
            {"sourceRanges": ["all"]},
            "spec.sourceRanges[0]: 'all' is no network; write CIDR such as '10.0.0.0/8', or 'VPC'",
        ),
    ],
)
def test_wrong_services(spec: dict[str, Any], error: str) -> None:
    (found,) = service_errors(**spec)
    assert error in found


def test_service_names_are_dns_labels_that_begin_with_a_letter() -> None:
    (found,) = errors_of(Service, {"selector": {"app": "web"}}, name="1.web")
    assert "start with a letter" in found


# ---------------------------------------------------------------- secrets


def secret_errors(data: dict[str, str]) -> list[str]:
    return [str(error) for error in validate(Secret(metadata=ObjectMeta(name="s"), data=data))]


def test_good_secrets() -> None:
    assert secret_errors({"user": "c29tZS11c2VybmFtZQ==", "tls.crt": "", "A_b-c": "aGk="}) == []


@pytest.mark.parametrize("value", ["c3VwZXI0tc2VjcmV0LXBhc3N3b3Jk", "plain", "aGk", "aG k=", "ä"])
def test_bad_base64_is_refused_and_not_shown(value: str) -> None:
    (found,) = secret_errors({"a": value})
    assert found.startswith("data.a: is not valid base64; make it with")
    assert value not in found


def test_bad_keys_and_too_much_data() -> None:
    assert "data[\"a/b\"]: 'a/b' must hold" in secret_errors({"a/b": ""})[0]
    assert "data: holds more than" in secret_errors({"a": "YWJj" * 262_145})[0]
