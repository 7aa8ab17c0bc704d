"""The guide to AWS: its files load, its links lead somewhere, and the commands that it names exist."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from milpa_ray.api.manifest import load_manifests
from milpa_ray.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
GUIDES = ("docs/aws.md", "nodeagent/image/README.md")


def _text(guide: str) -> str:
    return (ROOT / guide).read_text()


def _yaml() -> dict[str, str]:
    """The guide's files by their kind."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", _text("docs/aws.md"), re.MULTILINE | re.DOTALL)
    return {"pod" if "kind:" in block else "settings": block for block in blocks}


def test_the_settings_load(tmp_path: Path) -> None:
    path = tmp_path / "server.yml"
    path.write_text(_yaml()["settings"])
    settings = load_settings(path, {})
    assert isinstance(settings, Settings)
    assert settings.cloud.aws is not None
    assert settings.nodes.boot_image_tags == {"milpa": "node"}, "the tags that the image's template gives"
    assert 'default     = { milpa = "node" }' in _text("nodeagent/image/milpa-node.pkr.hcl")


def test_the_first_pod_loads() -> None:
    (pod,) = load_manifests(_yaml()["pod"])
    assert pod.metadata.name == "first"


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", _text(guide))
    assert [link for link in links if not (ROOT / guide).parent.joinpath(link).exists()] == []


@cache
def _help(program: str, command: str) -> str:
    done = subprocess.run([sys.executable, "-m", f"cli.{program}", command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_and_their_options_exist() -> None:
    command = re.compile(r"(?:^|`)(milpactl|milpa) ([a-z]+)\b([^`#\n]*)", re.MULTILINE)
    named = {match.groups() for guide in GUIDES for match in command.finditer(_text(guide))}
    assert {name for _, name, _ in named} >= {"doctor", "up", "down", "explain", "create", "wait", "logs"}
    for program, name, rest in named:
        shown = _help(program, name)
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in shown, f"{program} {name} {option}"
