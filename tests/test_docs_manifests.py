"""The references of manifests and settings: their examples load, and they leave no key out."""

import re
from pathlib import Path

from pydantic import BaseModel

from milpa_ray.api.manifest import load_manifests
from milpa_ray.api.pod import PodSpec, ResourceSpec, Unit
from milpa_ray.api.schema import field_names
from milpa_ray.limits import Limits
from milpa_ray.settings import Aws, Controllers, EtcdClient, EtcdInternal, License, Local, Nodes, Settings

DOCS = Path(__file__).parents[1] / "docs"


def test_every_example_of_the_manifest_reference_loads() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "manifests.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert load_manifests(block)


def missing(text: str, *models: type[BaseModel]) -> list[str]:
    return [name for model in models for name in field_names(model) if not re.search(rf"\b{name}\b", text)]


def test_the_manifest_reference_has_every_field_of_a_pod() -> None:
    assert missing((DOCS / "manifests.md").read_text(), PodSpec, Unit, ResourceSpec) == []


def test_the_settings_reference_has_every_key() -> None:
    models = (Settings, Aws, Local, EtcdClient, EtcdInternal, Nodes, Controllers, License, Limits)
    assert missing((DOCS / "settings.md").read_text(), *models) == []


def test_the_settings_reference_has_the_limits_defaults() -> None:
    text = (DOCS / "settings.md").read_text()
    for name, info in field_names(Limits).items():
        row = next(line for line in text.splitlines() if line.startswith("| ") and f"`{name}`" in line)
        assert f"`{info.default:g}`" in row
