"""Which instances of ours nobody knows: candidates for the garbage collector.

Careful on purpose: only instances with our cluster's uuid, listed before the store was read, seen unknown twice and
old enough; and when too many are unknown the collector stops, for then it is rather the store that is wrong.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from milpa_ray.ports import Instance, InstanceState

CLUSTER_TAG = "milpa-cluster"
UUID_TAG = "milpa-cluster-uuid"
BATCH_TAG = "milpa-batch"
FEW_UNKNOWN = 5
"""So many unknown instances never stop the collector, however few there are in all."""

GONE = frozenset({InstanceState.TERMINATED, InstanceState.SHUTTING_DOWN})


@dataclass(frozen=True, slots=True)
class GarbagePlan:
    """``condemned``: to be recorded and terminated now. ``suspects``: unknown now, condemned if unknown again.
    ``foreign``: instances with our cluster's name and another uuid, only reported. ``stopped``: why nothing is
    condemned, for the user."""

    condemned: tuple[str, ...] = ()
    suspects: frozenset[str] = frozenset()
    foreign: tuple[str, ...] = ()
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows, read after the cloud was listed: instance ids of nodes and tokens of open batches."""

    cluster_uuid: str
    instance_ids: Collection[str]
    batch_tokens: Collection[str]


def plan_garbage(
    instances: Iterable[Instance],
    known: Known,
    suspects: frozenset[str],
    *,
    now_s: float,
    min_age_s: float,
    max_fraction: float,
) -> GarbagePlan:
    """One round. ``suspects`` are the last round's; ``now_s`` is seconds since the epoch."""
    live = [i for i in instances if i.state not in GONE]
    foreign = tuple(i.id for i in live if i.tags.get(UUID_TAG) != known.cluster_uuid)
    ours = [i for i in live if i.tags.get(UUID_TAG) == known.cluster_uuid]
    unknown = [
        i
        for i in ours
        if i.id not in known.instance_ids and i.token not in known.batch_tokens and now_s - i.launched_at >= min_age_s
    ]
    now_suspect = frozenset(i.id for i in unknown)
    if len(unknown) > max(FEW_UNKNOWN, max_fraction * len(ours)):
        return GarbagePlan(
            suspects=now_suspect,
            foreign=foreign,
            stopped=f"{len(unknown)} of {len(ours)} instances are unknown to the store, more than "
            f"{max_fraction:.0%}: nothing is collected. If the store was lost or restored, terminate them by hand; "
            "else raise limits.gcMaxUnknownFraction",
        )
    condemned = tuple(sorted(now_suspect & suspects))
    return GarbagePlan(condemned=condemned, suspects=now_suspect, foreign=foreign)
