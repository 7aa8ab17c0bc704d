"""The fault run: it ends well on real processes, and its judges see what they are there to see."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.chaos_checks import Truth, broken, unmet
from benchmarks.chaos_faults import Fault, schedule
from benchmarks.chaos_users import Ledger, Wish
from benchmarks.chaos_witness import Witness
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodePhase, NodeStatus
from milpa_ray.api.pod import NetworkAddress, Pod, PodPhase, PodStatus
from milpa_ray.keys import Keys
from milpa_ray.ports import Instance, InstanceState
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Change, Entry

KEYS = Keys("t")
MAP = 7
HOST = "127.1.0.1"
OTHER_HOST = "127.1.0.2"


def pod(phase: PodPhase = PodPhase.RUNNING, **metadata: Any) -> Pod:
    return Pod(
        metadata=ObjectMeta(name="p", uid="pod-uid").model_copy(update=metadata),
        status=PodStatus(phase=phase, bound_node_uid="node-uid"),
    )


def node(phase: NodePhase = NodePhase.CLAIMED, name: str = "n", host: str = HOST) -> Node:
    addresses = (NetworkAddress(type="PrivateIP", address=host),)
    uid = "node-uid" if name == "n" else f"{name}-uid"
    status = NodeStatus(phase=phase, instance_id=f"i-{host}", pod_uid="pod-uid", addresses=addresses)
    return Node(metadata=ObjectMeta(name=name, uid=uid), status=status)


def agent(host: str = HOST, *runs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"host": host, "runs": list(runs), "tokens": [[1, MAP]], "refused": 0, "off_at": 0.0, **changed}


def run(started: float, stopped: float = 0.0, uid: str = "pod-uid") -> dict[str, Any]:
    return {"uid": uid, "token": [1, MAP], "started": started, "stopped": stopped}


def change(value: Pod | Node | bytes, *, deleted: bool = False) -> Change:
    if isinstance(value, bytes):
        return Change(Entry(KEYS.map, value, MAP, MAP))
    key = KEYS.pod(value.name) if isinstance(value, Pod) else KEYS.node(3, value.name)
    return Change(Entry(key, b"" if deleted else value.to_json(), 8, 8), deleted)


class Settled:
    """One pod that runs, as everyone tells it."""

    def __init__(self) -> None:
        self.witness = Witness(MemoryStore(), KEYS)
        self.witness.judge([change(b"{}")])
        self.witness.judge([change(pod(PodPhase.WAITING))])
        self.witness.judge([change(pod()), change(node())])
        self.ledger = Ledger([Wish("p", 0, uid="pod-uid", created=True)])
        self.truth = Truth(
            pods=dict(self.witness.pods),
            nodes=dict(self.witness.nodes),
            instances=[Instance(f"i-{HOST}", InstanceState.RUNNING)],
            agents=[agent(HOST, run(1.0))],
        )

    def wrong(self) -> list[str]:
        return broken(self.truth, self.ledger, self.witness)


@pytest.fixture
def settled() -> Settled:
    return Settled()


def test_a_seed_gives_one_schedule_and_every_kind_comes_before_any_comes_again() -> None:
    first = schedule(Random(5), 600.0, 2)
    assert first == schedule(Random(5), 600.0, 2)
    assert first != schedule(Random(6), 600.0, 2)
    kinds = [(fault.kind, fault.target) for fault in first]
    count = len(set(kinds))
    assert len(set(kinds[:count])) == count
    assert {"kill shard-1", "kill etcd", "pause api", "pause hollow cloud"} <= {f"{k} {t}" for k, t in kinds}
    assert all(fault.at_s + fault.lasts_s <= 600.0 for fault in first)
    assert str(Fault(1.0, "pause", "api", 2.5)) == "pause api for 2.5 s"


def test_what_is_well_is_not_blamed(settled: Settled) -> None:
    assert unmet(settled.truth, settled.ledger) == []
    assert settled.wrong() == []


def test_the_end_is_judged(settled: Settled) -> None:
    truth, ledger = settled.truth, settled.ledger
    lost = replace(truth, pods={}, nodes={})
    assert any("was created, not deleted, and is not there" in text for text in unmet(lost, ledger))
    assert f"instance i-{HOST} has no node" in unmet(lost, ledger)
    assert any("runs on" in text and "not its node" in text for text in unmet(lost, ledger))
    vanished = replace(truth, instances=[Instance(f"i-{HOST}", InstanceState.TERMINATED)])
    assert unmet(vanished, ledger) == [f"the node of instance i-{HOST} has lost it"]
    silent = replace(truth, agents=[agent(HOST)])
    assert unmet(silent, ledger) == [f"pod pod-uid should run on {HOST}, but does not"]
    assert unmet(replace(truth, left=["/milpa/t/batch/x"]), ledger) == ["record /milpa/t/batch/x is left"]
    ledger.wishes[0].deleted = ledger.wishes[0].delete_asked = True
    assert any("was deleted and is still there" in text for text in unmet(truth, ledger))


def test_what_agents_did_is_judged(settled: Settled) -> None:
    def told(*agents: dict[str, Any]) -> str:
        settled.truth.agents = agents
        return "\n".join(settled.wrong())

    assert "was started on 127.1.0.2 while it ran on 127.1.0.1" in told(
        agent(HOST, run(1.0, 5.0)), agent(OTHER_HOST, run(4.0))
    )
    twice = "pod pod-uid was started 2 times, though no fault of this run ends an instance"
    assert told(agent(HOST, run(1.0, 5.0)), agent(OTHER_HOST, run(5.5))) == twice
    assert told(agent(HOST, run(1.0), off_at=5.0), agent(OTHER_HOST, run(5.5))) == twice
    assert "while it ran on" in told(agent(HOST, run(1.0), run(2.0)))
    assert "has served two pods" in told(agent(HOST, run(1.0, 2.0, "before"), run(3.0)))
    assert "has obeyed an older owner" in told(agent(HOST, run(1.0), tokens=[[2, MAP], [1, MAP]]))
    assert "which no map has had" in told(agent(HOST, run(1.0), tokens=[[1, MAP + 1]]))
    assert "never was in the store" in told(agent(HOST, run(1.0), run(1.0, 2.0, "unknown")))


def test_changes_of_the_store_are_judged(settled: Settled) -> None:
    witness = settled.witness

    def told(*changes: Change) -> str:
        witness.wrong.clear()
        witness.judge(list(changes))
        return "\n".join(witness.wrong)

    assert told(change(node(name="m", host=OTHER_HOST))) == "pod pod-uid has two live nodes: ['m', 'n']"
    assert told(change(node(NodePhase.TERMINATED, name="m", host=OTHER_HOST))) == ""
    assert "no way from Claimed to Created" in told(change(node(NodePhase.CREATED)))
    assert told(change(pod(PodPhase.FAILED))) == ""
    assert "no way from Failed to Running" in told(change(pod()), change(node()))
    assert "its wish was changed" in told(change(pod(labels={"a": "b"})))
    assert "without a deletion" in told(change(pod(uid="another")))
    assert "was replaced by pod-uid" in told(change(pod()))
    assert "is gone though nobody deleted it" in told(change(pod(), deleted=True))
    assert "was created in phase Running" in told(change(pod()))
    witness.wrong.clear()
    assert "pod p (pod-uid) is gone though nobody deleted it" in settled.wrong()


def test_an_acknowledged_pod_that_never_was_is_seen(settled: Settled) -> None:
    settled.ledger.wishes.append(Wish("q", 1, uid="never", created=True))
    assert settled.wrong() == ["pod q (never) was acknowledged and never existed"]


def test_a_node_called_terminated_too_early_is_seen(settled: Settled) -> None:
    settled.witness.judge([change(node(NodePhase.TERMINATED))])
    settled.truth.nodes = dict(settled.witness.nodes)
    assert settled.wrong() == [f"node node-uid was called Terminated while its instance {HOST} ran"]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_a_short_run_ends_without_violation(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    words = ["--minutes", "0.2", "--rate", "5", "--shards", "1", "--seed", "4", "--json", str(result)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words], capture_output=True, text=True, timeout=220
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["violations"] == 0
    assert found["faults"] >= 1
    assert found["pods_created"] >= 50
    assert found["pods_running"] == found["pods_created"] - found["pods_deleted"]
