"""Launch calls in the making: from a group of nodes to the complete call that gets recorded.

Completing a call asks the cloud (boot image, subnet, security groups), so it runs beside everything else, and a kind of
launch that cannot be completed now is tried again after a back-off that the other kinds do not feel. Nothing is
recorded here, and nothing launched: a leader that ends loses only work that the next one does again.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.identifiers import make_uuid
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.pacing import Backoff
from milpa_ray.errors import Invalid, LaunchRejected, MilpaError, NoCapacity
from milpa_ray.planner.garbage import BATCH_TAG, CLUSTER_TAG, UUID_TAG
from milpa_ray.planner.launches import LaunchGroup, LaunchKind
from milpa_ray.ports import LaunchCall, bootstrap_identity
from milpa_ray.userdata import UserData

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a group: its complete call, why it gets none for good, or (``delayed``) for now."""

    group: LaunchGroup
    call: LaunchCall
    error: MilpaError | None = None
    delayed: bool = False


@dataclass(slots=True)
class _Delay:
    backoff: Backoff
    until: float


class Preparations:
    """Calls being completed, at most as many as the caller begins. ``changed`` is set when one is done or a kind may be
    tried again."""

    def __init__(
        self, deps: CoordinatorDeps, leadership: Leadership, cluster_uuid: str, changed: asyncio.Event
    ) -> None:
        self._deps = deps
        self._leadership = leadership
        self._cluster_uuid = cluster_uuid
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._kinds: dict[str, LaunchKind] = {}
        self._done: list[Prepared] = []
        self._delays: dict[LaunchKind, _Delay] = {}

    def __len__(self) -> int:
        """Begun and not taken yet."""
        return len(self._tasks) + len(self._done)

    def begin(self, group: LaunchGroup) -> str:
        """Starts to complete the group's call; returns its token."""
        token = make_uuid(self._deps.rng)
        self._kinds[token] = group.kind
        self._tasks[token] = asyncio.create_task(self._complete(token, group), name=f"prepare-{token}")
        return token

    def kinds(self) -> set[LaunchKind]:
        """What is under way."""
        return set(self._kinds.values())

    def take(self) -> list[Prepared]:
        """All that are done since the last time."""
        done, self._done = self._done, []
        return done

    def ready(self, groups: Iterable[LaunchGroup]) -> list[LaunchGroup]:
        """Those whose kind is not in a back-off."""
        now = asyncio.get_running_loop().time()
        for kind in [kind for kind, d in self._delays.items() if d.until < now - self._deps.limits.retry_max_s]:
            del self._delays[kind]
        return [group for group in groups if self._until(group.kind) <= now]

    def _until(self, kind: LaunchKind) -> float:
        delay = self._delays.get(kind)
        return delay.until if delay is not None else 0.0

    def delay(self, kind: LaunchKind) -> None:
        """Lets the kind rest for a while, longer each time until one of its calls is answered."""
        loop, limits = asyncio.get_running_loop(), self._deps.limits
        known = self._delays.get(kind)
        backoff = known.backoff if known else Backoff(self._deps.rng, limits.retry_first_s, limits.retry_max_s)
        pause = backoff.next_s()
        self._delays[kind] = _Delay(backoff, loop.time() + pause)
        loop.call_later(pause, self._changed.set)

    def forget_delay(self, kind: LaunchKind) -> None:
        """A call of this kind has been answered."""
        self._delays.pop(kind, None)

    def cancel(self) -> None:
        """Ends what is under way."""
        for task in self._tasks.values():
            task.cancel()

    async def _complete(self, token: str, group: LaunchGroup) -> None:
        call = self._bare_call(token, group)
        try:
            # A group that the cloud has to make for it is an effect.
            await self._leadership.check()
            call = await self._deps.compute.prepare(self._with_user_data(call))
            self._done.append(Prepared(group, call))
        except Deposed:
            pass  # The nodes are whoever's leads now.
        except (NoCapacity, LaunchRejected) as error:
            self._done.append(Prepared(group, call, error))
        except MilpaError as error:
            log.warning("preparing a launch of %d %s: %s", call.count, call.instance_type, error)
            self.delay(group.kind)
            self._done.append(Prepared(group, call, error, delayed=True))
        finally:
            self._tasks.pop(token, None)
            self._kinds.pop(token, None)
            self._changed.set()

    def _bare_call(self, token: str, group: LaunchGroup) -> LaunchCall:
        kind = group.kind
        return LaunchCall(
            token=token,
            count=len(group.nodes),
            instance_type=kind.instance_type,
            zone=kind.zone,
            spot=kind.spot,
            image=kind.image,
            private_ip_only=kind.private_ip_only,
            volume_gib=kind.volume_gib,
            credits=kind.credits,
            tags={CLUSTER_TAG: self._deps.keys.cluster, UUID_TAG: self._cluster_uuid, BATCH_TAG: token},
        )

    def _with_user_data(self, call: LaunchCall) -> LaunchCall:
        """Raises Invalid: the cloud-init file cannot be read or is too long."""
        authority, pair = self._deps.authority, None
        if authority is not None:
            pair = authority.issue([bootstrap_identity(call.token)], server=True, client=False)
        data = UserData(
            cluster=self._deps.keys.cluster,
            batch=call.token,
            ca=authority.pair.cert.decode() if authority is not None else "",
            cert=pair.cert.decode() if pair is not None else "",
            key=pair.key.decode() if pair is not None else "",
            cloud_init=self._deps.cloud_init(),
        )
        try:
            return replace(call, user_data=data.pack())
        except ValueError as error:
            raise Invalid(f"nodes.cloudInitFile: {error}") from error
