"""The example for several hosts is what Ray's launcher and our commands understand."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from cli.milpa import app

EXAMPLE = Path(__file__).parents[2] / "cluster.yaml"


def test_rays_launcher_accepts_it() -> None:
    # In another process: Ray must not be imported here before a driver's token is known.
    script = """import sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(open(sys.argv[1])))
validate_config(config)
print(config["max_workers"])"""
    done = subprocess.run([sys.executable, "-c", script, EXAMPLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    workers = yaml.safe_load(EXAMPLE.read_text())["provider"]["worker_ips"]
    assert int(done.stdout.split()[-1]) == len(workers)


@pytest.mark.parametrize("section", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_its_commands_and_flags_exist(section: str) -> None:
    known = get_command(app)
    runner = CliRunner()
    found = 0
    for line in yaml.safe_load(EXAMPLE.read_text())[section]:
        words = shlex.split(line.partition(">")[0])
        at = next(i for i, word in enumerate(words) if word.endswith("/milpa"))
        command = words[at + 1]
        help_text = runner.invoke(app, [command, "--help"]).output
        assert command in known.commands  # type: ignore[attr-defined]
        for flag in (word for word in words[at + 2 :] if word.startswith("--")):
            assert flag in help_text
            found += 1
    assert found >= 2
