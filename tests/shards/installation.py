"""A whole Milpa for tests: a home, ports, a bridge and a subnet of its own, driven through the real commands."""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milpa_ray.paths import Home
from tests.oci import free_port

TIMEOUT_S = 90


@dataclass
class Milpa:
    """``milpa`` and ``milpactl`` for one home. ``environment`` is what they get besides this process's."""

    home: Home
    registry_port: int
    api_port: int
    bridge: str
    environment: dict[str, str] = field(default_factory=dict, kw_only=True)

    @classmethod
    def prepare(cls, root: Path, registry_port: int) -> "Milpa":
        """Writes the settings. The subnet is drawn by lot, since tests of several checkouts may run at once."""
        number = random.randrange(20, 200)
        made = cls(Home(root), registry_port, free_port(), f"mt{number}-{random.randrange(1000)}")
        made.home.etc.mkdir(parents=True)
        settings = {
            "clusterName": "test",
            "cloud": {
                "local": {
                    "bridge": made.bridge,
                    "subnet": f"10.{number}.{random.randrange(16) * 16}.0/20",
                    "registryPorts": [registry_port],
                }
            },
            "controllers": {"apiHost": "127.0.0.1", "apiPort": made.api_port},
            "limits": {"stopGraceS": 1},
        }
        made.home.server_yml.write_text(json.dumps(settings))  # JSON is YAML
        return made

    def milpa(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self._run("milpa", *arguments)

    def milpactl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self._run("milpactl", *arguments)

    def ok(self, *arguments: str) -> str:
        """Output of a command that must succeed."""
        done = self._run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def status(self) -> dict[str, dict[str, Any]]:
        """``milpa status`` by name."""
        return {part["name"]: part for part in json.loads(self.milpa("status", "-o", "json").stdout)}

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("milpactl", "get", "pod", name, "-o", "json"))
        return found

    def logs(self) -> str:
        """The end of all logs, for a failure's message."""
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(self.home.log.glob("*.log")))

    def _run(self, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            **self.environment,
            "MILPA_HOME": str(self.home.root),
            "MILPA_ENDPOINTS": f"127.0.0.1:{self.api_port}",
        }
        program = Path(sys.executable).with_name(command)
        return subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
