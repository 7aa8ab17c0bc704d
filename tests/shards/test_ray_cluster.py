"""Ray of one home on a real machine: reachable from this host alone, by token alone, ended by pid."""

import subprocess
import sys
from pathlib import Path

import pytest

from milpa_ray.paths import Home
from shards.processes import processes_in
from shards.ray_cluster import MAX_TEMP_DIR, RayCluster, RayFailed

pytestmark = pytest.mark.integration


def listening_addresses(pids: set[int]) -> set[str]:
    """Local addresses (hexadecimal, as the kernel tells them) on which the processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = link.readlink().name
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(words[1].partition(":")[0])
    return found


def test_listens_on_loopback_only(ray_cluster: RayCluster) -> None:
    assert ray_cluster.is_running()
    found = listening_addresses({process.pid for process in ray_cluster.processes()})
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert found
    assert found <= loopback


def test_no_ray_client_server_and_no_dashboard_page(ray_cluster: RayCluster) -> None:
    titles = " ".join(process.title for process in ray_cluster.processes())
    assert "ray.util.client" not in titles
    assert "monitor" not in titles


def first_word(cluster: RayCluster, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """One question to the head, asked by another process; a driver would ask the same one again for 20 s."""
    script = f"""from ray._raylet import GcsClient
GcsClient(address={cluster.address()!r}).internal_kv_keys(b"", None, 5)
print("in")"""
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_the_token_nobody_gets_in(ray_cluster: RayCluster) -> None:
    right = ray_cluster.environment()
    wrong = {**right, "RAY_AUTH_TOKEN_PATH": "/dev/null", "RAY_AUTH_TOKEN": "wrong" * 8}
    assert first_word(ray_cluster, right).stdout == "in\n"
    refused = first_word(ray_cluster, wrong)
    assert refused.stdout == ""
    assert "InvalidAuthToken" in refused.stderr
    assert ray_cluster.token_file.stat().st_mode & 0o777 == 0o600


def test_stop_leaves_nothing_and_touches_no_other_ray(ray_cluster: RayCluster, tmp_path: Path) -> None:
    other = RayCluster(Home(tmp_path))
    try:
        other.start_head()
        assert other.address() != ray_cluster.address()
        # What is left after the head alone was killed is found too.
        head = next(process for process in other.processes() if "gcs_server" in process.title)
        subprocess.run(["kill", "-9", str(head.pid)], check=True)
    finally:
        ended = other.stop()
    assert len(ended) > 1
    assert other.processes() == []
    assert not other.temp_dir.exists()
    assert not other.is_running()
    assert ray_cluster.is_running()
    with pytest.raises(RayFailed, match="not running"), other.connected():
        pass


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.ray_cluster.START_TIMEOUT_S", 2.0)  # the head runs by then, its node does not
    cluster = RayCluster(Home(tmp_path))
    with pytest.raises(RayFailed, match=r"ray-start\.log"):
        cluster.start_head()
    assert cluster.processes() == []
    assert not cluster.temp_dir.exists()


def test_joining_needs_a_token_and_a_head(tmp_path: Path) -> None:
    cluster = RayCluster(Home(tmp_path), node_ip="127.0.0.1")
    with pytest.raises(RayFailed, match=r"ray\.token is missing"):
        cluster.join("127.0.0.1:1")
    cluster.token_file.parent.mkdir(parents=True)
    cluster.token_file.write_text("00")
    with pytest.raises(RayFailed, match="no Ray head answers"):
        cluster.join("127.0.0.1:1")


def test_foreign_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    cluster = RayCluster(Home(tmp_path))
    cluster.temp_dir.mkdir(parents=True, mode=0o755)
    cluster.temp_dir.chmod(0o755)
    try:
        with pytest.raises(RayFailed, match=str(cluster.temp_dir)):
            cluster._make_temp_dir()
    finally:
        cluster.temp_dir.rmdir()


def test_temp_dir_is_short_and_of_one_home() -> None:
    long = Home(Path("/srv/a/very/long/path/to/the/installation/of/milpa/here"))
    assert RayCluster(Home(Path("/opt/milpa"))).temp_dir == Path("/opt/milpa/run/ray")
    assert len(str(RayCluster(long).temp_dir)) <= MAX_TEMP_DIR
    assert RayCluster(long).temp_dir != RayCluster(Home(long.root / "b")).temp_dir


def test_processes_in_finds_by_working_directory(tmp_path: Path) -> None:
    inside, beside = tmp_path / "a", tmp_path / "ab"
    (inside / "b").mkdir(parents=True)
    beside.mkdir()
    started = [subprocess.Popen(["sleep", "60"], cwd=folder) for folder in (inside, inside / "b", beside)]
    try:
        assert {process.pid for process in processes_in(inside)} == {started[0].pid, started[1].pid}
    finally:
        for process in started:
            process.kill()
            process.wait()
