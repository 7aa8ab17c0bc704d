"""Every manifest of the manual (its scan errors mended) and every example loads, and means what the manual says."""

from pathlib import Path

import pytest

from milpa_ray.api import Deployment, Pod, ReplicaSet, Secret, Service
from milpa_ray.api.manifest import load_manifests
from milpa_ray.api.meta import Resource

MANUAL = Path(__file__).parent / "manual"
EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted([*MANUAL.glob("*.yaml"), *EXAMPLES.glob("*.yaml")])


def load(name: str) -> list[Resource]:
    return load_manifests((MANUAL / name).read_text(), name)


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.name}" for path in FILES])
def test_loads_and_survives_the_store(path: Path) -> None:
    objects = load_manifests(path.read_text(), path.name)
    assert objects
    for found in objects:
        assert type(found).from_json(found.to_json()) == found
        assert load_manifests(found.to_json().decode()) == [found]


def test_there_is_a_file_for_each_of_the_manual_s_manifests() -> None:
    assert len(list(MANUAL.glob("*.yaml"))) == 21


def test_service_with_kind_and_protocol_in_lower_case() -> None:
    (service,) = load("service.yaml")
    assert isinstance(service, Service)
    assert service.kind == "Service"
    assert service.spec.ports[0].protocol == "TCP"
    assert service.spec.selector.match_labels == {"app": "echoer"}
    assert service.spec.source_ranges == ("128.32.0.0/16",)


def test_plain_selectors_and_init_units() -> None:
    one, two, pod = load("init-units.yaml")
    assert isinstance(one, Service)
    assert isinstance(two, Service)
    assert isinstance(pod, Pod)
    assert one.spec.selector.match_labels == two.spec.selector.match_labels == {"app": "myapp"}
    assert one.spec.ports[0].target_port == 9376
    assert [unit.name for unit in pod.spec.init_units] == ["init-myservice", "init-mydb"]


def test_resources() -> None:
    (pod,) = load("resources.yaml")
    assert isinstance(pod, Pod)
    resources = pod.spec.resources
    assert (resources.cpu, resources.memory, resources.volume_size) == ("2", "2Gi", "60Gi")
    assert resources.dedicated_cpu
    assert not resources.private_ip_only


def test_spot_policy() -> None:
    (pod,) = load("spot.yaml")
    assert isinstance(pod, Pod)
    assert pod.spec.spot.policy == "always"


def test_memory_backed_volume() -> None:
    (pod,) = load("empty-dir-memory.yaml")
    assert isinstance(pod, Pod)
    volume = pod.spec.volumes[0].empty_dir
    assert volume is not None
    assert (volume.medium, volume.size_limit) == ("Memory", 128)


def test_replica_set_and_deployment() -> None:
    (replica_set,) = load("replica-set.yaml")
    (deployment,) = load("deployment.yaml")
    assert isinstance(replica_set, ReplicaSet)
    assert isinstance(deployment, Deployment)
    assert replica_set.spec.replicas == 3
    assert (deployment.spec.replicas, deployment.spec.max_surge, deployment.spec.max_unavailable) == (2, 1, 0)
    assert deployment.spec.template.metadata.labels == {"app": "helloserver"}


def test_secrets_and_references_to_them() -> None:
    (secret,) = load("secret.yaml")
    (pod,) = load("secret-environment.yaml")
    assert isinstance(secret, Secret)
    assert isinstance(pod, Pod)
    references = [variable.value_from for variable in pod.spec.units[0].env]
    assert all(r is not None and r.secret_key_ref is not None for r in references)
    assert {r.secret_key_ref.key for r in references if r and r.secret_key_ref} == set(secret.data)
