"""What bringing up and taking down mean in AWS: the cluster's name is claimed before any controller starts, and with
the data everything of the cluster is removed from the account.

The name and the cluster's uuid are noted in a file beside the store, for the store does not run any more when the
account is cleaned.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cloud.aws.cluster_lock import ClusterLock
from cloud.aws.elb import ClassicBalancers
from cloud.aws.network import Network
from cloud.aws.route53 import PrivateZone
from cloud.aws.session import AwsSession
from cloud.catalog import load_catalog
from milpa_ray.clock import SystemClock
from milpa_ray.controller.identifiers import ensure_cluster_uuid
from milpa_ray.errors import CloudThrottled, CloudUnavailable, MilpaError
from milpa_ray.keys import Keys
from milpa_ray.paths import Home
from milpa_ray.planner.garbage import GONE, UUID_TAG
from milpa_ray.ports import InstanceState
from milpa_ray.settings import Aws, Settings
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from shards.aws_cloud import AwsCloud, aws_cloud, credentials

END_TIMEOUT_S = 600.0
"""How long the end of instances, and of what they use, is waited for."""
UNREACHABLE_S = 30.0
"""How long an account that does not answer is tried."""
ANSWER_TIMEOUT_S = 10.0
POLL_S = 2.0

Progress = Callable[[str], None]
Step = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Claim:
    """What this home manages in AWS: a name in a region, as the cluster with this uuid."""

    cluster: str
    uuid: str
    region: str


def _note(home: Home) -> Path:
    return home.data / "aws-cluster.json"


def claim_name(settings: Settings, aws: Aws, etcd: EtcdConfig, home: Home, *, take_over: bool) -> str:
    """Takes the cluster's name for the cluster in the store, or joins it. What was done, for people.

    When AWS does not answer, nothing is claimed: the leading controller goes on trying.

    Raises:
        NameTaken: another cluster has it. CloudNotReady, CloudRefused: credentials or permissions don't do.
    """
    return asyncio.run(_claim_name(settings, aws, etcd, home, take_over=take_over))


async def _claim_name(settings: Settings, aws: Aws, etcd: EtcdConfig, home: Home, *, take_over: bool) -> str:
    cluster = settings.cluster_name
    store = EtcdStore(etcd)
    try:
        uuid = await ensure_cluster_uuid(store, Keys(cluster), random.SystemRandom())
    finally:
        await store.close()
    home.data.mkdir(parents=True, exist_ok=True)
    _note(home).write_text(json.dumps(asdict(Claim(cluster, uuid, aws.region))))
    session = AwsSession(aws.region, credentials(aws))
    try:
        lock = ClusterLock(session, cluster, SystemClock())
        await (lock.take_over(uuid) if take_over else lock.hold(uuid))
    except (CloudThrottled, CloudUnavailable) as error:
        return f"the cluster's name could not be claimed yet, the controllers go on trying: {error}"
    finally:
        session.close()
    return f"cluster name {cluster!r} is ours in {aws.region}"


def clean_account(settings: Settings, aws: Aws, home: Home, progress: Progress) -> None:
    """Removes all that is tagged with the cluster's uuid from the account, and gives its name back. The controllers
    must have ended. Does nothing for a home that never claimed a name.

    Raises:
        MilpaError: AWS refuses or does not answer, or something is still there after ten minutes. Doing it again goes
            on.
    """
    claim = claim_of(home)
    if claim is not None:
        progress(f"removing from AWS, {claim.region}, what it has of cluster {claim.cluster!r}")
        asyncio.run(_reach(aws, claim, progress))
        asyncio.run(_clean_account(settings, aws.model_copy(update={"region": claim.region}), claim, progress))
        _note(home).unlink()


def claim_of(home: Home) -> Claim | None:
    """What this home has claimed in AWS and not given back."""
    note = _note(home)
    return Claim(**json.loads(note.read_text())) if note.exists() else None


async def _reach(aws: Aws, claim: Claim, progress: Progress) -> None:
    """Returns once AWS says who we are, which needs no permission.

    Raises:
        MilpaError: it does not; nothing was changed.
    """
    session = AwsSession(claim.region, credentials(aws), read_timeout_s=ANSWER_TIMEOUT_S)
    problem = "no answer"
    try:
        async with asyncio.timeout(UNREACHABLE_S):
            while True:
                try:
                    await session.call("sts", "GetCallerIdentity")
                except (CloudThrottled, CloudUnavailable) as error:
                    if str(error) != problem:
                        progress(f"{error}; trying for {UNREACHABLE_S:g} s")
                    problem = str(error)
                else:
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise _untouched(problem, claim) from error
    except MilpaError as error:
        raise _untouched(str(error), claim) from error
    finally:
        session.close()


def _untouched(problem: str, claim: Claim) -> MilpaError:
    return MilpaError(
        f"nothing in the AWS account was deleted, and this home's data is kept: {problem}. Mend that and run 'milpa "
        f"down --delete-data' again. {_without_cloud(claim)}"
    )


def _without_cloud(claim: Claim) -> str:
    return (
        "To drop only the local data: 'milpa down --delete-data --keep-cloud'; what is tagged milpa-cluster-uuid="
        f"{claim.uuid} then stays in {claim.region}"
    )


async def _clean_account(settings: Settings, aws: Aws, claim: Claim, progress: Progress) -> None:
    settings = settings.model_copy(update={"cluster_name": claim.cluster})
    catalogue = await asyncio.to_thread(load_catalog, aws.region)
    cloud = aws_cloud(settings, aws, claim.uuid, catalogue, SystemClock())
    try:
        cleaner = Cleaner(cloud, Network(cloud.session, aws.vpc_id), claim, progress)
        steps = cleaner.steps(zone=settings.service_discovery.private_dns is not None)
        for what, step in steps.items():
            progress(f"AWS: {what}")
            await _until(step, what, claim)
    finally:
        cloud.close()
    progress(f"removed from AWS what it had of cluster {claim.cluster!r}: {', '.join(steps)}")


class Cleaner:
    """Removes what is tagged with the cluster's uuid. Each step says whether nothing of its kind is left."""

    def __init__(self, cloud: AwsCloud, network: Network, claim: Claim, progress: Progress) -> None:
        self._cloud = cloud
        self._claim = claim
        self._progress = progress
        self._balancers = ClassicBalancers(cloud.session, claim.cluster, claim.uuid, network)
        self._zone = PrivateZone(cloud.session, claim.cluster, claim.uuid, network.vpc_id)

    def steps(self, *, zone: bool) -> dict[str, Step]:
        """In their order: groups cannot go before what is in them, and the name goes last."""
        return {
            "instances": self._end_instances,
            "load balancers": self._end_balancers,
            "security groups": self._end_groups,
            **({"DNS zone": self._end_zone} if zone else {}),
            "cluster name": self._give_back,
        }

    async def _end_instances(self) -> bool:
        found = await self._cloud.compute.list_instances()
        ours = [i for i in found if i.tags.get(UUID_TAG) == self._claim.uuid]
        if alive := [i.id for i in ours if i.state not in GONE]:
            self._progress(f"terminating {len(alive)} instances")
            await self._cloud.compute.terminate(alive)
        return all(i.state is InstanceState.TERMINATED for i in ours)

    async def _end_balancers(self) -> bool:
        for name in await self._balancers.balancers():
            await self._balancers.remove_balancer(name)
        return True

    async def _end_groups(self) -> bool:
        firewall = self._cloud.firewall
        return all([await firewall.remove_group(name) for name in await firewall.groups()])

    async def _end_zone(self) -> bool:
        await self._zone.remove_zone()
        return True

    async def _give_back(self) -> bool:
        await self._cloud.name_lock.release(self._claim.uuid)
        return True


async def _until(step: Step, what: str, claim: Claim) -> None:
    problem = "they have not ended yet"
    answered = time.monotonic()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            while True:
                try:
                    if await step():
                        return
                    answered = time.monotonic()
                except CloudThrottled as error:
                    problem, answered = str(error), time.monotonic()
                except CloudUnavailable as error:
                    problem = str(error)
                    if time.monotonic() - answered > UNREACHABLE_S:
                        raise _silent(what, problem, claim) from error
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise MilpaError(
            f"{what} are still there in AWS after {END_TIMEOUT_S:.0f} s: {problem}. Run 'milpa down "
            "--delete-data' again"
        ) from error


def _silent(what: str, problem: str, claim: Claim) -> MilpaError:
    return MilpaError(
        f"AWS does not answer any more: {what}, and what comes after them, may still be there, and this home's data is "
        f"kept: {problem}. Run 'milpa down --delete-data' again. {_without_cloud(claim)}"
    )
