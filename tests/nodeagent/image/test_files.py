"""The files beside ``install.sh``: what can be told without installing anything."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "nodeagent/image"
_LOADED = """
import json, sys
import nodeagent.__main__, nodeagent.fetch_user_data, nodeagent.signing, nodeagent.cleanup
files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
print(json.dumps([name for name, file in files.items() if "site-packages" in file]))
"""
_OF_THE_CHECKOUT = {"milpa-ray", "setuptools", "grpcio-tools"}
"""Loaded by the editable installation, and by grpc only where it finds it."""


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {_normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_pinned_as_everywhere_else() -> None:
    assert _pins(IMAGE / "requirements.txt").items() <= _pins(ROOT / "requirements.lock").items()


def test_all_that_the_agent_imports_is_in_the_image() -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED], check=True, capture_output=True, text=True, cwd=ROOT)
    owners = packages_distributions()
    loaded = {_normal(owners[top][0]) for name in json.loads(done.stdout) if (top := name.partition(".")[0]) in owners}
    needed = loaded - _OF_THE_CHECKOUT
    assert needed, "nothing was loaded?"
    assert needed <= _pins(IMAGE / "requirements.txt").keys()


def test_the_template_uploads_every_file_that_install_needs() -> None:
    template = (IMAGE / "milpa-node.pkr.hcl").read_text()
    used = set(re.findall(r"\$here/([a-z][\w.-]*)", (IMAGE / "install.sh").read_text()))
    assert used == {"wheels", "packages", "requirements.txt", "milpa-agent.service", "cloud-init.cfg"}
    for name in used - {"wheels"}:
        assert f'"${{path.root}}/{name}"' in template
    assert '"${path.root}/build/wheels"' in template


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_scripts_are_clean() -> None:
    scripts = sorted(str(path) for path in IMAGE.glob("*.sh"))
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--wheels"], "--wheels needs a folder"),
        (["--wheels", "/nonexistent"], "no wheel of milpa-ray in /nonexistent"),
        (["--bogus"], "unknown argument '--bogus'"),
    ],
)
def test_install_says_what_is_wrong_before_it_changes_anything(arguments: list[str], reason: str) -> None:
    done = subprocess.run(["bash", str(IMAGE / "install.sh"), *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert reason in done.stderr
