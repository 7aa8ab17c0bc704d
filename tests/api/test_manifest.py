"""Manifests: what is accepted, and each kind of error with its line, path, reason and remedy."""

import json
import time

import pytest
import yaml

from milpa_ray.api import Deployment, Pod, Service
from milpa_ray.api.manifest import ManifestErrors, load_manifests, load_object, load_references
from milpa_ray.api.meta import Resource
from milpa_ray.errors import Invalid

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  units:
  - name: main
    image: nginx
"""


def errors_of(text: str, source: str = "web.yaml") -> list[str]:
    with pytest.raises(ManifestErrors) as caught:
        load_manifests(text, source)
    assert [str(error) for error in caught.value.errors] == str(caught.value).splitlines()
    return str(caught.value).splitlines()


def unit_errors(lines: str) -> list[str]:
    """Errors of a pod whose only unit has ``lines`` besides its name and image; without source and subject."""
    return [line.partition('Pod "web": ')[2] for line in errors_of(POD + lines)]


def spec_errors(lines: str) -> list[str]:
    return unit_errors(lines)


def one(text: str) -> Resource:
    (found,) = load_manifests(text)
    return found


# ---------------------------------------------------------------- accepted


@pytest.mark.parametrize("kind", ["Pod", "pod", "POD", "po", "pods"])
def test_kind_in_any_case_and_abbreviated(kind: str) -> None:
    found = one(POD.replace("kind: Pod", f"kind: {kind}"))
    assert isinstance(found, Pod)
    assert found.kind == "Pod"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("always", "always"),
        ("Always", "always"),
        ("OnFailure", "onFailure"),
        ("onfailure", "onFailure"),
        ("Never", "never"),
    ],
)
def test_restart_policy_in_any_case(written: str, meant: str) -> None:
    found = one(POD + f"  restartPolicy: {written}\n")
    assert isinstance(found, Pod)
    assert found.spec.restart_policy == meant


@pytest.mark.parametrize("written", ["preferred", "Preferred", "PREFERRED"])
def test_spot_policy_in_any_case(written: str) -> None:
    found = one(POD + f"  spot: {{policy: {written}}}\n")
    assert isinstance(found, Pod)
    assert found.spec.spot.policy == "preferred"


@pytest.mark.parametrize(("written", "meant"), [("2", "2"), ("0.5", "0.5"), ("'500m'", "500m"), ("2Gi", "2Gi")])
def test_quantities_may_be_numbers(written: str, meant: str) -> None:
    found = one(POD + f"  resources: {{cpu: {written}, memory: {written}}}\n")
    assert isinstance(found, Pod)
    assert found.spec.resources.cpu == found.spec.resources.memory == meant


@pytest.mark.parametrize(
    "selector",
    [
        "{app: web}",
        "{matchLabels: {app: web}}",
        "{matchExpressions: [{key: app, operator: in, values: [web]}]}",
    ],
)
def test_selectors_of_all_shapes(selector: str) -> None:
    found = one(f"kind: svc\nmetadata: {{name: web}}\nspec: {{selector: {selector}}}")
    assert isinstance(found, Service)
    expressions = [(e.key, str(e.operator), e.values) for e in found.spec.selector.match_expressions]
    assert found.spec.selector.match_labels == {"app": "web"} or expressions == [("app", "In", ("web",))]


def test_a_label_may_be_called_match_labels() -> None:
    found = one("kind: svc\nmetadata: {name: web}\nspec: {selector: {matchLabels: web}}")
    assert isinstance(found, Service)
    assert found.spec.selector.match_labels == {"matchLabels": "web"}


def test_nulls_are_as_if_left_out() -> None:
    assert one(POD + "    command:\n    env: null\n  volumes: ~\n") == one(POD)


def test_json_and_lists() -> None:
    pod = yaml.safe_load(POD)
    other = pod | {"metadata": {"name": "other"}}
    text = json.dumps({"kind": "List", "apiVersion": "v1", "items": [pod, other]}, indent="\t")
    assert [found.name for found in load_manifests(text)] == ["web", "other"]
    assert [found.name for found in load_manifests(text.replace('"List"', '"PodList"'))] == ["web", "other"]


def test_what_get_shows_can_be_fed_back() -> None:
    found = one(POD)
    shown = found.to_dict() | {"status": {"phase": "Running", "ofANewerServer": 1}}
    assert one(yaml.safe_dump(shown)) == found


def test_several_documents_in_order() -> None:
    text = "---\n".join(POD.replace("name: web", f"name: web-{i}") for i in range(3))
    assert [found.name for found in load_manifests(text)] == ["web-0", "web-1", "web-2"]


def test_anchors_shared_by_several_units() -> None:
    found = one(POD + "    env: &env [{name: A, value: b}]\n  - {name: other, image: nginx, env: *env}\n")
    assert isinstance(found, Pod)
    assert found.spec.units[0].env == found.spec.units[1].env


def test_an_object_from_plain_data() -> None:
    assert load_object(yaml.safe_load(POD)) == one(POD)
    with pytest.raises(ManifestErrors, match=r'^given: Pod "web": spec.oops: unknown field'):
        load_object({"kind": "Pod", "metadata": {"name": "web"}, "spec": {"oops": 1, "units": []}}, "given")


def test_references_need_no_more_than_kind_and_name() -> None:
    found = load_references("kind: po\nmetadata: {name: a}\nspec: {wrong: 1}\n---\nkind: Node\nmetadata: {name: n}\n")
    assert [(ref.kind, ref.name) for ref in found] == [("Pod", "a"), ("Node", "n")]
    with pytest.raises(ManifestErrors, match=r"metadata.name: is required"):
        load_references("kind: Pod")


# ---------------------------------------------------------------- errors of the document


def test_errors_are_invalid_requests() -> None:
    with pytest.raises(Invalid):
        load_manifests("")


@pytest.mark.parametrize("text", ["", "---\n", "# only a comment\n", "---\n---\n", "kind: List\nitems: []\n"])
def test_no_documents(text: str) -> None:
    assert errors_of(text) == ["web.yaml:1: holds no objects; write at least one"]


def test_all_errors_of_all_documents_at_once_in_order() -> None:
    text = (
        POD.replace("image:", "imagee:") + "---\nkind: Pood\n---\n" + POD.replace("name: web", "name: Web") + "---\n[\n"
    )
    errors = errors_of(text)
    assert [line.split(": ")[0] for line in errors] == [
        "web.yaml:7",
        "web.yaml:8",
        "web.yaml:10 (document 2)",
        "web.yaml:15 (document 3)",
        "web.yaml:22 (document 4)",
    ]


def test_the_place_of_an_error_is_told_in_parts() -> None:
    with pytest.raises(ManifestErrors) as caught:
        load_manifests(POD + "  - {name: two, image: nginx, comand: [x]}\n", "web.yaml")
    (error,) = caught.value.errors
    assert (error.source, error.line, error.document) == ("web.yaml", 9, 1)
    assert error.path == ("spec", "units", 1, "comand")
    assert error.field == "spec.units[1].comand"
    assert error.reason == "unknown field 'comand'; did you mean 'command'?"
    assert error.subject == 'Pod "web"'


def test_errors_inside_of_a_list_have_their_item_in_the_path() -> None:
    text = "kind: List\nitems:\n- kind: Pod\n  metadata: {name: a}\n  spec: {units: [{name: a}]}\n"
    assert errors_of(text) == ['web.yaml:5: Pod "a": items[0].spec.units[0].image: is required']


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "expected an object with 'kind'"),
        ("[{kind: Pod}]", "expected an object with 'kind'"),
        ("kind: List", "items: is required: a list of objects"),
        ("kind: List\nitems: [a]", "items[0]: expected an object with 'kind'"),
        ("metadata: {name: a}", "kind: is required; use one of Pod, Service"),
        ("kind: [Pod]", "kind: is required"),
        ("kind: Deploymnt", "unknown kind 'Deploymnt'; did you mean 'Deployment'?"),
        ("kind: CronJob", "unknown kind 'CronJob'; use one of Pod, Service"),
        ("kind: Node\nmetadata: {name: n}", 'Node "n": kind: a Node cannot be created: Milpa makes nodes itself'),
        ("kind: ev", "a Event cannot be created: events are written by Milpa"),
        ("kind: Endpoints", "made by Milpa from Services"),
        ("kind: LogFile", "log files are written by Milpa"),
        ("kind: Pod\nkind: Pod", "kind: duplicate key 'kind', given on line 1 already"),
        (POD.replace("v1", "apps/v1"), "apiVersion: 'apps/v1' is not known; use 'v1'"),
    ],
)
def test_wrong_documents(text: str, reason: str) -> None:
    assert any(reason in line for line in errors_of(text))


def test_two_objects_of_one_name() -> None:
    assert errors_of(POD + "---\n" + POD) == [
        "web.yaml:13 (document 2): Pod \"web\": metadata.name: the file has another Pod 'web' on line 1; "
        "rename or remove one"
    ]
    secret = "---\nkind: Secret\nmetadata: {name: web}\n"
    assert len(load_manifests(POD + secret)) == 2


# ---------------------------------------------------------------- errors of fields


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("    comand: [x]\n", "spec.units[0].comand: unknown field 'comand'; did you mean 'command'?"),
        ("    Command: [x]\n", "spec.units[0].Command: unknown field 'Command'; did you mean 'command'?"),
        ("    working_dir: /a\n", "spec.units[0].working_dir: unknown field 'working_dir'; did you mean 'workingDir'?"),
        ("  containers: []\n", "spec.containers: unknown field 'containers'; Milpa calls them 'units'"),
        ("  resources: {limits: {cpu: 1}}\n", "write cpu, memory and gpu in 'resources' itself"),
        ("    command: run\n", "spec.units[0].command: expected a list, got text; write it in brackets: [...]"),
        ("    args: {a: b}\n", "spec.units[0].args: expected a list, got a mapping"),
        ("    env: [{name: A, value: 8080}]\n", "env[0].value: expected text, got a number; put it in quotes"),
        ("    env: [{name: A, value: true}]\n", "env[0].value: expected text, got true; put it in quotes"),
        ("    ports: [{port: '80'}]\n", "ports[0].port: expected a whole number, got text; write it without quotes"),
        ("    ports: [{port: 80.5}]\n", "ports[0].port: expected a whole number, got a number"),
        ("    ports: [{port: 65536}]\n", "ports[0].port: must be at most 65535"),
        ("    ports: [{port: 0}]\n", "ports[0].port: must be 1 to 65535 for TCP, not 0"),
        ("    ports: [{}]\n", "ports[0].port: is required"),
        ("    ports: [{port: 1, protocol: tpc}]\n", "'tpc' is not known; use 'TCP', 'UDP' or 'ICMP'"),
        ("  restartPolicy: sometimes\n", "'sometimes' is not known; use 'always', 'onFailure' or 'never'"),
        (
            "  resources: {dedicatedCPU: yes}\n",
            "dedicatedCPU: expected true or false, got text; write it without quotes",
        ),
        ("  resources: {memory: 2GB}\n", "spec.resources.memory: '2GB' is no quantity"),
        ("  resources: {cpu: -1}\n", "spec.resources.cpu: '-1' must not be negative"),
        ("  resources: {gpu: 0.5}\n", "spec.resources.gpu: '0.5' must be a whole number"),
        ("  resources: [cpu]\n", "spec.resources: expected a mapping (key: value), got a list"),
        ("  - {name: main, image: nginx}\n", "units[1].name: duplicate unit name 'main'; units[0] has it already"),
        ("  initUnits: [{name: main, image: a}]\n", "initUnits[0].name: duplicate unit name 'main'; units[0] has it"),
        ("  - {name: two}\n", "spec.units[1].image: is required"),
        ("  - {name: two, image: }\n", "spec.units[1].image: is required"),
        ("  - {name: two, image: ''}\n", "spec.units[1].image: must not be empty"),
        ("  - {image: nginx}\n", "spec.units[1].name: is required"),
        ("  - nginx\n", "spec.units[1]: expected a mapping (key: value), got text"),
        (
            "    volumeMounts: [{name: cash, mountPath: /c}]\n",
            "names no volume of the pod: 'cash'; add it to the pod's",
        ),
        (
            "    env: [{name: A, value: b, valueFrom: {secretKeyRef: {name: a, key: b}}}]\n",
            "must not stand beside 'value'",
        ),
        ("    env: [{name: A, valueFrom: {}}]\n", "env[0].valueFrom.secretKeyRef: is required"),
        ("  imagePullSecrets: [Creds]\n", "spec.imagePullSecrets[0]: 'Creds' must hold lower-case letters"),
        ("  imagePullSecrets: [a, a]\n", "spec.imagePullSecrets[1]: duplicate Secret 'a'"),
        ("  imagePullSecrets: [{name: a}]\n", "spec.imagePullSecrets[0]: expected text, got a mapping"),
        ("  phase: Succeeded\n", "spec.phase: 'Succeeded' cannot be wished for; use 'Running' or 'Terminated'"),
    ],
)
def test_wrong_fields_of_a_pod(lines: str, error: str) -> None:
    errors = unit_errors(lines)
    assert len(errors) == 1
    assert error in errors[0]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("  name: web\n", "  labels: {}\n", "metadata.name: is required"),
        ("  name: web\n", "  name: Web_1\n", "'Web_1' must hold lower-case letters, digits, '-' and '.' only"),
        ("  name: web\n", "  name: Web_1\n", "such as 'web-1'"),
        ("  name: web\n", "  name: -web\n", "start and end with a letter or digit, such as 'web'"),
        ("  name: web\n", "  name: 5\n", "metadata.name: expected text, got a number; put it in quotes"),
        ("  name: web\n", f"  name: {'a' * 254}\n", "must be at most 253 characters long, this one has 254"),
        ("  name: web\n", "  name: web\n  namespace: prod\n", "namespace: Milpa has the namespace 'default' only"),
        ("  name: web\n", "  name: web\n  labels: {a: -b}\n", "metadata.labels.a: label's value: '-b' must hold"),
        ("  name: web\n", f"  name: web\n  labels: {{a: {'b' * 64}}}\n", "must be at most 63 characters long"),
        (
            "  name: web\n",
            "  name: web\n  labels: {'a b': c}\n",
            """metadata.labels["a b"]: label's key: 'a b' must hold""",
        ),
        (
            "  name: web\n",
            "  name: web\n  labels: {B_/a: c}\n",
            "label's key: prefix 'B_' must hold lower-case letters",
        ),
        (
            "  name: web\n",
            "  name: web\n  labels: [a]\n",
            "metadata.labels: expected a mapping (key: value), got a list",
        ),
        ("metadata:\n  name: web\n", "", "metadata.name: is required"),
        (
            "  units:\n  - name: main\n    image: nginx\n",
            "  units: []\n",
            "spec.units: is required: a pod runs at least one",
        ),
    ],
)
def test_wrong_metadata_and_empty_specs(old: str, new: str, error: str) -> None:
    errors = errors_of(POD.replace(old, new))
    assert len(errors) == 1
    assert error in errors[0]


def test_a_broken_part_does_not_hide_errors_elsewhere_nor_cause_more() -> None:
    errors = unit_errors(
        "    comand: [x]\n    volumeMounts: [{name: c, mountPath: c}]\n  volumes: [{name: c, emptyDir: {}}]\n"
        "  resources: {cpu: many}\n"
    )
    assert len(errors) == 3
    assert "'comand'" in errors[0]
    assert "'c' must be an absolute path" in errors[1]
    assert "'many' is no quantity" in errors[2]


def test_secrets_are_never_shown() -> None:
    text = "kind: Secret\nmetadata: {name: s}\ndata: {a: hunter2!, b: [hunter2], c: 12345678}\nhunter: {}\n"
    errors = errors_of(text)
    assert len(errors) == 4
    assert "data.a: is not valid base64; make it with" in str(errors)
    assert "hunter2" not in str(errors)
    assert "12345678" not in str(errors)


def test_many_errors_are_kept_but_not_all_shown() -> None:
    text = "---\n".join(POD.replace("image", "imag").replace("web", f"web{i}") for i in range(100))
    with pytest.raises(ManifestErrors) as caught:
        load_manifests(text)
    assert len(caught.value.errors) == 200
    assert str(caught.value).splitlines()[-1] == "... and 150 more errors"


def test_a_template_is_checked_as_a_pod_is() -> None:
    text = (
        "kind: Deployment\nmetadata: {name: d}\nspec:\n  template:\n    spec:\n      units: [{name: a, image: 'A B'}]\n"
    )
    (error,) = errors_of(text)
    assert "web.yaml:6: Deployment \"d\": spec.template.spec.units[0].image: 'A B' is no image reference" in error


def test_a_large_file_is_read_quickly() -> None:
    text = "---\n".join(POD.replace("web", f"web-{i}") for i in range(3000))
    began = time.process_time()
    assert len(load_manifests(text)) == 3000
    assert time.process_time() - began < 5


def test_too_large_an_object_is_refused() -> None:
    (error,) = errors_of(POD + f"    args: [{'a' * 1_100_000}]\n")
    assert "the limit is 1048576; make it smaller" in error


def test_deployment_can_not_stand_still() -> None:
    pod = "{spec: {units: [{name: a, image: b}]}}"
    text = f"kind: deploy\nmetadata: {{name: d}}\nspec: {{maxSurge: 0, maxUnavailable: 0, template: {pod}}}"
    assert "spec.maxUnavailable: must not be 0 when maxSurge is 0" in errors_of(text)[0]
    assert isinstance(one(text.replace("maxSurge: 0", "maxSurge: 1")), Deployment)
