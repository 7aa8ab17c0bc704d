"""The folders and small files of a Milpa home on disk: made, read and locked here. Starts nothing."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from milpa_ray.errors import MilpaError
from milpa_ray.paths import Home
from milpa_ray.settings import Settings, load_settings
from shards.ray_cluster import LOOPBACK

DEFAULT_SERVER_YML = Path(__file__).with_name("default_server.yml")


class HomeProblem(MilpaError):
    """The home cannot be used as it is. Fit for a user."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """How Milpa was brought up: what ``milpa up`` was told and later commands need to know. ``config_file`` is a path;
    ``node_ip`` is this host's address in the Ray cluster;
    ``autoscaling_config`` is what ``ray up`` has left on the head for starting workers."""

    config_file: str = ""
    tls: bool = True
    node_ip: str = LOOPBACK
    ray_port: int = 0
    autoscaling_config: str = ""

    def ignored(self, running: "UpOptions") -> list[str]:
        """What of these has no effect on a Milpa that was brought up with ``running``, a line each for its user."""
        usual, found = UpOptions(), []
        for name, flag in FLAGS.items():
            given, runs = getattr(self, name), getattr(running, name)
            if given == runs:
                continue
            now = "without it" if runs == getattr(usual, name) else f"with {_spelled(flag, runs)}"
            asked = _spelled(flag, given) if given != getattr(usual, name) else ""
            found.append(f"{asked} is ignored: Milpa runs {now}" if asked else f"Milpa runs {now}, as it was started")
        return found


FLAGS = {
    "config_file": "--config",
    "tls": "--disable-tls",
    "node_ip": "--node-ip",
    "ray_port": "--ray-port",
    "autoscaling_config": "--autoscaling-config",
}
"""The flag of ``milpa up`` that sets each option."""


def _spelled(flag: str, value: str | int) -> str:
    return flag if isinstance(value, bool) else f"{flag} {value}"


def make_home(home: Home) -> bool:
    """Makes the folders, and ``server.yml`` when there is none; whether it was made.

    Raises:
        HomeProblem: they cannot be made.
    """
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        for folder, mode in ((home.etc, 0o755), (home.certs, 0o755), (home.run, 0o700), (home.log, 0o755)):
            folder.mkdir(mode=mode, exist_ok=True)
        if home.server_yml.exists():
            return False
        home.server_yml.write_text(DEFAULT_SERVER_YML.read_text())
        home.server_yml.chmod(0o600)  # it may come to hold keys
    except OSError as error:
        raise HomeProblem(
            f"cannot make Milpa's home: {error.strerror}: {error.filename}. Run milpa as root, or choose another "
            "place with --home or MILPA_HOME"
        ) from error
    return True


def read_settings(home: Home, config_file: Path) -> Settings:
    """The settings in ``config_file`` for ``home``, wherever ``MILPA_HOME`` points: defaults such as the data directory
    are below it.

    Raises:
        Invalid: with all errors of the file.
    """
    return load_settings(config_file, {**os.environ, "MILPA_HOME": str(home.root)})


def was_up(home: Home) -> bool:
    """Whether Milpa was ever brought up there, and its state has not been deleted since."""
    return _options_file(home).exists()


def save_options(home: Home, options: UpOptions) -> None:
    """Remembers ``options`` for the commands after ``up``."""
    path = _options_file(home)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(options)))
    temporary.replace(path)


def load_options(home: Home) -> UpOptions:
    """What the last ``up`` was told; the defaults when there is nothing readable."""
    try:
        return UpOptions(**json.loads(_options_file(home).read_text()))
    except (OSError, ValueError, TypeError):
        return UpOptions()


def _options_file(home: Home) -> Path:
    return home.run / "up.json"


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Only one ``milpa`` command at a time changes what runs.

    Raises:
        HomeProblem: another one is at work.
    """
    if not home.run.is_dir():
        yield
        return
    try:
        file = (home.run / "milpa.lock").open("a+")
    except OSError as error:
        raise HomeProblem(f"{error.filename}: {error.strerror}. Run milpa as the user that started it") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise HomeProblem(f"process {file.read().strip()} is changing {home.root} at this moment; wait") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
