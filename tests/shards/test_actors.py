"""The actors on a real Ray: detached, restarted with a fresh incarnation, never dead for good."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from shards.actors import ActorConfig, Build, CoordinatorActor, ShardActor
from shards.launch import ActorSpec, LaunchFailed, actor_names, dumps, start_actors, statuses, stop_actors
from shards.ray_cluster import RayCluster
from tests.shards.loops import failing, turning, unbuildable
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def driver(ray_cluster: RayCluster) -> Iterator[RayCluster]:
    """A connected driver; actors of the test are gone afterwards."""
    with ray_cluster.connected():
        yield ray_cluster
        end_actors()


def end_actors() -> None:
    """Ends all actors for good."""
    import ray  # only now: it reads its token when it is imported

    for name in actor_names():
        ray.kill(ray.get_actor(name))
    wait_until(lambda: not actor_names(), what="actors gone")


def spec(cluster: RayCluster, name: str, build: Build = turning) -> ActorSpec:
    root = cluster.home.root
    return ActorSpec(ShardActor, build, ActorConfig(name, str(root), str(root / "etc/server.yml")))


def state_of(name: str) -> dict[str, Any]:
    state: dict[str, Any] = dumps()[name].get("state", {})
    return state


def test_killed_actor_comes_back_as_a_fresh_incarnation(driver: RayCluster) -> None:
    start_actors([spec(driver, "shard-0"), spec(driver, "shard-1")], timeout_s=30)
    before, other = state_of("shard-0"), state_of("shard-1")
    pid = next(status.pid for status in statuses() if status.name == "shard-0")
    os.kill(pid, signal.SIGKILL)
    after = wait_until(lambda: state_of("shard-0"), 15, "an answer of the restarted actor")
    assert after["incarnation"] != before["incarnation"]
    assert state_of("shard-1")["incarnation"] == other["incarnation"]
    assert after["loop"].startswith("uvloop")


def test_controllers_get_no_less_of_the_processor_than_others(driver: RayCluster) -> None:
    start_actors([spec(driver, "shard-0")], timeout_s=30)
    pid = statuses()[0].pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)


def test_starting_twice_finds_the_first_from_another_driver(ray_cluster: RayCluster) -> None:
    with ray_cluster.connected():
        start_actors([spec(ray_cluster, "shard-0")], timeout_s=30)
        first = state_of("shard-0")["incarnation"]
    with ray_cluster.connected():
        reached: list[str] = []
        start_actors([spec(ray_cluster, "shard-0")], 30, reached.append)
        assert state_of("shard-0")["incarnation"] == first
        assert len(reached) == 1
        end_actors()


@pytest.mark.parametrize(("build", "reason"), [(failing, "broke on purpose"), (unbuildable, "has no store")])
def test_loop_that_fails_is_told_and_tried_again(driver: RayCluster, build: Build, reason: str) -> None:
    with pytest.raises(LaunchFailed, match=reason):
        start_actors([spec(driver, "shard-0", build)], timeout_s=8)
    first = wait_until(lambda: next((s.pid for s in statuses()), 0), 15)
    assert wait_until(lambda: next((s.pid for s in statuses() if s.pid not in (0, first)), 0), 20, "a new process")
    assert reason in (driver.home.log / "shard-0.log").read_text()


def test_stop_ends_the_loop_and_keeps_the_actor_from_being_ready(driver: RayCluster) -> None:
    config = ActorConfig("coordinator", str(driver.home.root), "")
    start_actors([ActorSpec(CoordinatorActor, turning, config)], timeout_s=30)
    stop_actors()
    (status,) = statuses()
    assert (status.ready, status.error) == (False, "stopped")
    turns = state_of("coordinator")["turns"]
    assert state_of("coordinator")["turns"] == turns
