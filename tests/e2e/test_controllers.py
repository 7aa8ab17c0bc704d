"""Controllers die and hang, one at a time, while 20 pods run: no pod notices, and new pods run."""

import os
import signal
import time

import pytest

from tests.e2e.drills import Cluster, Fleet, kill, name_in_shard
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PAUSE_S = 15.0
"""Longer than any lease."""


@pytest.mark.parametrize("victim", ["shard-0", "coordinator", "api-127.0.0.1"])
def test_a_killed_controller_is_back_and_no_pod_notices(cluster: Cluster, fleet: Fleet, victim: str) -> None:
    pid = cluster.controller(victim)["pid"]
    killed = kill(pid)
    back_s = cluster.when_milpactl_works(killed)
    new_pod_s = cluster.run_new_pod(name_in_shard(0, f"after-{victim.split('-')[0]}"))
    cluster.when_ready(victim, not_pid=pid)
    fleet.assert_undisturbed()
    print(f"{victim} killed: milpactl after {back_s:.1f} s, new pod ran {new_pod_s:.1f} s after that")


def test_a_killed_etcd_is_back_and_no_pod_notices(cluster: Cluster, fleet: Fleet) -> None:
    pid = cluster.etcd_pid()
    killed = kill(pid)
    back_s = cluster.when_milpactl_works(killed)
    new_pod_s = cluster.run_new_pod("after-etcd")
    assert cluster.etcd_pid() != pid
    fleet.assert_undisturbed()
    print(f"etcd killed: milpactl after {back_s:.1f} s, new pod ran {new_pod_s:.1f} s after that")


@pytest.mark.parametrize("victim", ["shard-1", "coordinator"])
def test_a_paused_controller_does_no_harm(cluster: Cluster, fleet: Fleet, victim: str) -> None:
    pid = cluster.controller(victim)["pid"]
    os.kill(pid, signal.SIGSTOP)
    paused = time.monotonic()
    try:
        back_s = cluster.when_milpactl_works(paused)
        name = name_in_shard(1, f"during-{victim}")
        if victim == "coordinator":  # there is but one to launch instances
            cluster.create(cluster.pod(name))
        else:
            new_pod_s = cluster.run_new_pod(name)
            print(f"{victim} paused: new pod of its slots ran after {new_pod_s:.1f} s")
        wait_until(lambda: time.monotonic() - paused > PAUSE_S, PAUSE_S + 1, "the pause is over")
    finally:
        os.kill(pid, signal.SIGCONT)
    went_on = time.monotonic()
    cluster.when_milpactl_works(went_on)
    cluster.when_running(name)
    print(f"{victim} paused: milpactl after {back_s:.1f} s; pod of before ran {time.monotonic() - went_on:.1f} s after")
    new_pod_s = cluster.run_new_pod(name_in_shard(1, f"after-pause-{victim}"))
    cluster.when_ready(victim)
    fleet.assert_undisturbed()
    print(f"{victim} went on: new pod ran after {new_pod_s:.1f} s")
