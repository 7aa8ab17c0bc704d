"""An AWS API server that is not ours: moto in server mode, in a process of its own on a free loopback port."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.oci import free_port
from tests.waiting import wait_until

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
SETTINGS = {
    "MOTO_AMIS_PATH": str(Path(__file__).with_name("images.json")),
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
}


class MotoServer:
    """``start()``, use, ``stop()``. ``log_file`` gets its access log."""

    def __init__(self, log_file: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "MotoServer":
        """Returns once it answers."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHONDONTWRITE"))}
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=kept | SETTINGS,
            )
        wait_until(self._answers, START_TIMEOUT_S, f"moto answers (log: {self._log_file})")
        return self

    def stop(self) -> None:
        """Ends it; nothing of it is left."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"moto ended: {self._log_file.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
