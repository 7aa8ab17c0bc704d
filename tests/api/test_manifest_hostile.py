"""Manifests made to harm: every text ends soon, in objects or in a bounded list of clear errors."""

import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api.manifest import ManifestErrors, load_manifests
from tests.api.test_manifest import POD


@pytest.mark.parametrize(
    "text",
    [
        POD + "    env: [" + "{nam: a, value: 1}," * 50_000 + "]\n",
        POD + "    env: [" + "{name: a b}," * 50_000 + "]\n",
        POD + "  imagePullSecrets: [" + "a," * 200_000 + "]\n",
        POD + "".join(f"  x{i}: 1\n" for i in range(50_000)),
        "---\n".join(f"kind: Pood{i}\n" for i in range(20_000)),
        '{"kind": "Pod", "spec": ' + '{"a": [' * 400 + "]}" * 400 + "}",
        '{"\\ud83d\\ude00": ' + "[" * 800 + "]" * 800 + "}",
    ],
    ids=["structure", "meaning", "duplicates", "fields", "documents", "nested", "nested JSON"],
)
def test_hostile_files_end_soon_and_with_few_errors(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ManifestErrors) as caught:
        load_manifests(text)
    assert len(caught.value.errors) <= 2500
    assert time.process_time() - began < 10


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(["Pod", "a"]),
)
keys = st.sampled_from(
    [
        *("kind", "metadata", "name", "labels", "annotations", "spec", "units", "image", "env", "ports", "port"),
        *("selector", "matchLabels", "template", "data", "items", "volumes", "volumeMounts", "resources", "cpu"),
        *("status", "<<", "x"),
    ]
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=20,
)
kinds = st.sampled_from(["Pod", "Service", "Deployment", "ReplicaSet", "Secret", "List", "Node"])


@given(kinds, st.dictionaries(keys, trees, max_size=5), st.dictionaries(keys, trees, max_size=5))
def test_any_tree_gives_objects_or_manifest_errors(kind: str, spec: object, metadata: object) -> None:
    tree = {"kind": kind, "metadata": metadata, "spec": spec, "items": [spec]}
    for text in (json.dumps(tree), yaml.safe_dump(tree)):
        try:
            found = load_manifests(text)
        except ManifestErrors:
            continue
        assert found
