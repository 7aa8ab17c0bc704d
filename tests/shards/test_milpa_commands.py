"""``milpa``: what it says when something is wrong, and that it leaves nothing then."""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from milpa_ray.errors import MilpaError
from milpa_ray.paths import Home
from shards.installation import Installation
from shards.layout import DEFAULT_SERVER_YML, HomeProblem, UpOptions, load_options, locked, make_home, read_settings
from shards.layout import save_options as save
from tests.shards.installation import Milpa

pytestmark = pytest.mark.integration


@pytest.fixture
def milpa() -> Iterator[Milpa]:
    with tempfile.TemporaryDirectory(prefix="milpa-test-") as folder:
        found = Milpa.prepare(Path(folder) / "home", 5000)
        try:
            yield found
        finally:
            found.milpa("down")


def test_wrong_settings_are_told_with_their_lines_and_nothing_is_started(milpa: Milpa) -> None:
    milpa.home.server_yml.write_text("clusterName: test\ncontrolers: {}\nnodes: {standbyNodes: 3}\n")
    done = milpa.milpa("up")
    assert done.returncode == 1
    assert f"{milpa.home.server_yml}:2" in done.stderr
    assert "controllers" in done.stderr
    assert f"{milpa.home.server_yml}:3" in done.stderr
    assert "Traceback" not in done.stderr
    assert Installation(milpa.home).leftovers() == []


def test_taken_api_port_is_told_before_anything_is_started(milpa: Milpa) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", milpa.api_port))
        taken.listen()
        done = milpa.milpa("up")
    assert done.returncode == 1
    assert str(milpa.api_port) in done.stderr
    assert "remedy" in done.stderr
    assert Installation(milpa.home).leftovers() == []


def test_a_name_can_be_taken_over_on_aws_only(milpa: Milpa) -> None:
    done = milpa.milpa("up", "--take-over-name")
    assert done.returncode == 2
    assert "--take-over-name: only clusters on AWS register their names" in done.stderr
    assert Installation(milpa.home).leftovers() == []


@pytest.mark.parametrize(
    ("told", "name", "said"),
    [
        (
            "cloud: {aws: {region: us-east1x, vpcID: vpc-1}}",
            "region",
            "'us-east1x' is unknown; did you mean 'us-east-1'?",
        ),
        ("cloud: {local: {region: eu-wst-1}}", "region", "'eu-wst-1' is unknown; did you mean 'eu-west-1'?"),
        (
            "cloud: {aws: {region: us-east-1, vpcID: vpc-1}}\nnodes: {defaultInstanceType: t3.nanoo}",
            "default type",
            "t3.nanoo is not offered in us-east-1; did you mean 't3.nano'?",
        ),
    ],
)
def test_what_the_catalogue_does_not_know_is_told_at_once(
    milpa: Milpa, monkeypatch: pytest.MonkeyPatch, told: str, name: str, said: str
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    milpa.home.server_yml.write_text(f"clusterName: test\n{told}\n")
    checks = {check["name"]: check for check in json.loads(milpa.milpa("doctor", "-o", "json").stdout)}
    assert checks["settings"]["ok"]
    assert said in checks[name]["detail"]
    assert checks[name]["essential"]
    assert checks[name]["remedy"]
    done = milpa.milpa("up")
    assert done.returncode == 1
    assert said in done.stderr
    assert Installation(milpa.home).leftovers() == []


def test_the_local_data_can_be_dropped_without_the_account(milpa: Milpa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.aws_life.UNREACHABLE_S", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    milpa.home.server_yml.write_text("clusterName: test\ncloud: {aws: {region: us-east-1, vpcID: vpc-1}}\n")
    store = milpa.home.data / "member"
    store.mkdir(parents=True)
    note = milpa.home.data / "aws-cluster.json"
    note.write_text('{"cluster": "test", "uuid": "uuid-1", "region": "us-east-1"}')
    with pytest.raises(MilpaError, match="nothing in the AWS account was deleted"):
        Installation(milpa.home).down(delete_data=True)
    assert store.exists()
    assert milpa.milpa("down", "--keep-cloud").returncode == 2
    done = milpa.milpa("down", "--delete-data", "--keep-cloud")
    assert done.returncode == 0, done.stderr
    assert "uuid-1" in done.stderr
    assert not store.exists()
    assert note.exists()


def test_doctor_fails_with_a_remedy_when_a_tool_is_missing(milpa: Milpa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    done = milpa.milpa("doctor", "-o", "json")
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["runc"]["ok"] is False
    assert checks["runc"]["remedy"] == "apt-get install runc"
    assert "apt-get install runc" in milpa.milpa("doctor").stdout


def test_failed_start_undoes_what_it_has_started(milpa: Milpa, tmp_path: Path) -> None:
    config = tmp_path / "etcd.yml"
    config.write_text("listen-client-urls: https://127.0.0.1:2379\n")
    text = json.loads(milpa.home.server_yml.read_text())
    milpa.home.server_yml.write_text(json.dumps({**text, "etcd": {"internal": {"configFile": str(config)}}}))
    done = milpa.milpa("up")
    assert done.returncode == 1
    assert "listen-client-urls" in done.stderr
    assert "Traceback" not in done.stderr
    installation = Installation.found(milpa.home)
    assert set(installation.daemons().values()) == {"stopped"}
    assert installation.ray.processes() == []


def test_stop_down_and_status_of_what_never_ran(milpa: Milpa) -> None:
    never = f"Milpa was never started in {milpa.home.root}."
    for command, words in (("stop", "There was nothing to stop.\n"), ("down", "There was nothing to take down.\n")):
        done = milpa.milpa(command)
        assert (done.returncode, done.stderr) == (0, f"{never} {words}")
    for home in (milpa.home.root, milpa.home.root / "none"):
        done = milpa.milpa("status", "--home", str(home))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Error: Milpa was never started in {home}. Start it with 'milpa up', or name")
    assert json.loads(milpa.milpa("status", "-o", "json").stdout) == []


def test_other_users_home_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeProblem, match="--home"):
        make_home(Home(tmp_path / "file" / "home"))


def test_new_home_gets_the_example_settings(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert make_home(home)
    assert not make_home(home)
    settings = read_settings(home, home.server_yml)
    assert settings.cloud.local is not None
    assert settings.etcd.internal.data_dir == str(home.data), "not that of MILPA_HOME or /opt/milpa"
    assert home.server_yml.stat().st_mode & 0o777 == 0o600
    assert home.server_yml.read_text() == DEFAULT_SERVER_YML.read_text()


def test_options_are_remembered(tmp_path: Path) -> None:
    home = Home(tmp_path)
    make_home(home)
    assert load_options(home) == UpOptions()
    options = UpOptions("/etc/other.yml", tls=False, node_ip="192.0.2.7", ray_port=6399)
    save(home, options)
    assert load_options(home) == options


def test_flags_that_a_running_milpa_ignores_are_told() -> None:
    usual = UpOptions()
    assert usual.ignored(usual) == []
    given = UpOptions("/a.yml", tls=False, ray_port=7000)
    assert given.ignored(usual) == [
        "--config /a.yml is ignored: Milpa runs without it",
        "--disable-tls is ignored: Milpa runs without it",
        "--ray-port 7000 is ignored: Milpa runs without it",
    ]
    assert usual.ignored(UpOptions("/b.yml", node_ip="192.0.2.7")) == [
        "Milpa runs with --config /b.yml, as it was started",
        "Milpa runs with --node-ip 192.0.2.7, as it was started",
    ]
    assert given.ignored(UpOptions("/b.yml", tls=False, ray_port=7000)) == [
        "--config /a.yml is ignored: Milpa runs with --config /b.yml"
    ]


def test_two_commands_at_once_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    make_home(home)
    script = f"from shards.layout import *; import pathlib\nwith locked(Home(pathlib.Path({str(tmp_path)!r}))): pass"
    with locked(home):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "is changing" in done.stderr
    with locked(home):
        pass
