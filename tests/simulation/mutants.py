"""Bugs to plant into the real controllers, one at a time, to see that the simulation catches them.

Each is a patch of the running code, never of the source: what a tired engineer could have written instead.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.controller import batches, cloud_duties, collector, leadership, links, slot_range, view
from milpa_ray.errors import CloudUnavailable, NoCapacity
from milpa_ray.planner import launches, nodes, pods
from milpa_ray.planner.interruption import SPOT_INTERRUPTED
from milpa_ray.planner.snapshot import Draft
from milpa_ray.ports import Token
from milpa_ray.server import peers, staleness
from milpa_ray.store.group import GroupOutcome, Verdict, group_commit

Patch = Any
MUTANTS: dict[str, Callable[[], list[Patch]]] = {}


def mutant(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    MUTANTS[make.__name__.replace("_", "-")] = make
    return make


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug is there inside the block."""
    patches = MUTANTS[name]()
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@mutant
def commit_without_fence() -> list[Patch]:
    """A shard's commits compare their own keys only."""

    async def unfenced(store: Any, map_key: str, token: Any, groups: Any) -> Any:
        return await group_commit(store, groups, None)

    return [mock.patch.object(slot_range, "commit_fenced", unfenced)]


@mutant
def bind_before_the_stop_is_confirmed() -> list[Patch]:
    """A pod whose node is silent for a while goes to another node at once."""
    real = pods._bound

    def bound(draft: Draft, pod: Pod) -> None:
        facts = draft.case.agent(pod.status.bound_node_name)
        if facts.silent_s > draft.limits.unhealthy_after_s:
            pods._again(draft, pod, "NodeLost", "silent")
        else:
            real(draft, pod)

    return [mock.patch.object(pods, "_bound", bound)]


@mutant
def stop_taken_for_granted() -> list[Patch]:
    """A pod that is to end counts as stopped as soon as the stop was asked for."""
    real = pods._bound

    def bound(draft: Draft, pod: Pod) -> None:
        if pods.ends(pod) and pod.status.phase == PodPhase.RUNNING:
            pods._stopped(draft, pod)
        else:
            real(draft, pod)

    return [mock.patch.object(pods, "_bound", bound)]


@mutant
def interrupted_pod_moved_before_its_stop() -> list[Patch]:
    """A pod whose spot instance is taken back goes to its next node as soon as that is up."""
    real = pods._bound

    def bound(draft: Draft, pod: Pod) -> None:
        if pod.status.reason == SPOT_INTERRUPTED and not pods.ends(pod):
            pods._again(draft, pod, SPOT_INTERRUPTED, "moved")
        else:
            real(draft, pod)

    return [mock.patch.object(pods, "_bound", bound)]


@mutant
def interrupted_pod_gets_no_node_beside() -> list[Patch]:
    """A pod whose spot instance is taken back gets its next node only after it was stopped."""
    return [mock.patch.object(pods, "_needs_another", return_value=False)]


@mutant
def launch_before_the_record() -> list[Patch]:
    """The launch is made first and recorded with its answer known."""
    real = batches.Batches._open

    async def opening(self: Any, groups: Any) -> None:
        make = self._launch_call
        self._launch_call = lambda group: calls.pop(0)
        calls = [make(group) for group in groups]
        for call in calls:
            try:
                await self._deps.compute.launch(call)
            except (CloudUnavailable, NoCapacity):
                continue
        await real(self, groups)
        self._launch_call = make

    return [mock.patch.object(batches.Batches, "_open", opening)]


@mutant
def lost_launch_answer_taken_for_a_failure() -> list[Patch]:
    """A launch without an answer counts as failed, and its node is given up."""
    real = batches.Batches._call

    async def call(self: Any, batch: Any) -> None:
        compute = self._deps.compute
        launch = compute.launch

        async def impatient(asked: Any) -> Any:
            try:
                return await launch(asked)
            except CloudUnavailable as error:
                raise NoCapacity("Lost", str(error)) from error

        with mock.patch.object(compute, "launch", impatient):
            await real(self, batch)

    return [mock.patch.object(batches.Batches, "_call", call)]


@mutant
def lost_commit_answer_taken_for_done() -> list[Patch]:
    """A commit without an answer counts as committed."""
    real = slot_range.commit_fenced

    async def hopeful(store: Any, map_key: str, token: Any, groups: Any) -> Any:
        outcomes = await real(store, map_key, token, groups)
        return [
            GroupOutcome(Verdict.COMMITTED, 10**9) if o.verdict in (Verdict.UNKNOWN, Verdict.NOT_DONE) else o
            for o in outcomes
        ]

    return [mock.patch.object(slot_range, "commit_fenced", hopeful)]


@mutant
def stale_listing_counts() -> list[Patch]:
    """An instance that one listing leaves out counts as gone."""
    return [mock.patch.object(launches, "MISSING_TIMES", 1), mock.patch.object(launches, "MISSING_S", 0.0)]


@mutant
def shutting_down_counts_as_gone() -> list[Patch]:
    """The cloud's promise to end an instance is taken for the proof."""
    real = launches.instance_news

    def news(stored: Any, instances: Any, missing: Any, now: Any) -> Any:
        hasty = [
            (item, launches.terminated(item.obj, now, "ending"))
            for item in stored
            if (found := instances.get(item.obj.status.instance_id)) is not None and found.state == "shutting-down"
        ]
        done = {item.key for item, _ in hasty}
        return hasty + [pair for pair in real(stored, instances, missing, now) if pair[0].key not in done]

    return [mock.patch.object(cloud_duties, "instance_news", news)]


@mutant
def node_forgotten_while_it_lives() -> list[Patch]:
    """A node that nobody needs is removed at once."""
    real = nodes._available

    def available(draft: Draft, node: Any) -> None:
        if not nodes.needed(draft, node):
            draft.remove_node(node.name)
        else:
            real(draft, node)

    return [mock.patch.object(nodes, "_available", available), mock.patch.object(nodes, "_created", available)]


@mutant
def follower_watches_from_a_compacted_revision() -> list[Patch]:
    """A candidate waits for the leader's end from the leader's beginning on, which may be compacted."""
    real = leadership.Leadership._until_gone

    async def until_gone(self: Any, leader: Any, revision: int) -> None:
        await real(self, leader, leader.mod_revision)

    return [mock.patch.object(leadership.Leadership, "_until_gone", until_gone)]


@mutant
def agent_called_with_an_old_token() -> list[Patch]:
    """A link keeps the token that it began with."""
    real = links.AgentLink.__init__

    def init(self: Any, deps: Any, node: Any) -> None:
        first: list[Token] = []

        def token() -> Token:
            first.append(deps.token())
            return first[0]

        real(self, links.LinkDeps(**{s: getattr(deps, s) for s in deps.__slots__} | {"token": token}), node)

    return [mock.patch.object(links.AgentLink, "__init__", init)]


@mutant
def slots_that_left_are_still_served() -> list[Patch]:
    """A shard whose range has changed drops nothing of what is now another's."""
    return [mock.patch.object(view.KeyView, "_covers", return_value=True)]


@mutant
def garbage_collected_in_haste() -> list[Patch]:
    """The collector reads the store before it lists the cloud, and condemns at first sight."""
    real_known, real_plan = collector.Collector._known, collector.plan_garbage
    real_collect = collector.Collector._collect

    async def collect(self: Any) -> None:
        known = await real_known(self)

        async def before(_self: Any) -> Any:
            return known

        def hasty(instances: Any, known: Any, suspects: Any, **options: Any) -> Any:
            everything = frozenset(instance.id for instance in instances)
            return real_plan(instances, known, everything, **options | {"min_age_s": 0.0})

        with (
            mock.patch.object(collector.Collector, "_known", before),
            mock.patch.object(collector, "plan_garbage", hasty),
        ):
            await real_collect(self)

    return [mock.patch.object(collector.Collector, "_collect", collect)]


@mutant
def own_acknowledgement_forgotten() -> list[Patch]:
    """A stalled read is answered from the cache although this server has acknowledged something newer."""
    return [mock.patch.object(staleness.QuickReads, "acknowledge", return_value=None)]


@mutant
def age_of_the_cache_ignored() -> list[Patch]:
    """A stalled read is answered from the cache however old it may be."""
    return [mock.patch.object(staleness.QuickReads, "_does", lambda self, item: item.key not in self._unseen)]


@mutant
def other_servers_ignored() -> list[Patch]:
    """Every API server takes itself for the only one."""
    return [mock.patch.object(peers.Peers, "alone", True)]
