"""Token buckets on our side of the API, by AWS' published figures, so that we wait instead of being throttled.

One ``Pace`` per process, shared by all calls. A throttle that comes all the same (others use the account, too) empties
the bucket. Knows names of operations only; sends nothing and retries nothing.
"""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A bucket of ``size`` tokens that gains ``refill_per_s``."""

    size: float
    refill_per_s: float


EC2_DESCRIBE = "ec2 describe"
EC2_OTHER = "ec2 other"
RUN_INSTANCES_COUNT = "ec2 RunInstances instances"
"""Counts instances; all other buckets count requests."""

LIMITS = {
    "ec2 RunInstances": Limit(5, 2),
    RUN_INSTANCES_COUNT: Limit(1000, 2),
    "ec2 TerminateInstances": Limit(100, 5),
    "ec2 CreateTags": Limit(100, 10),
    EC2_DESCRIBE: Limit(100, 20),
    EC2_OTHER: Limit(50, 5),
    "route53": Limit(5, 5),
}
"""Per account and region. Of ELB and DynamoDB nothing is published that we could reach."""


def bucket_of(service: str, operation: str) -> str:
    """The bucket that a request takes a token from; empty when none is known."""
    if service == "ec2":
        own = f"ec2 {operation}"
        if own in LIMITS:
            return own
        return EC2_DESCRIBE if operation.startswith(("Describe", "Get", "List")) else EC2_OTHER
    return service if service in LIMITS else ""


_ROUNDING = 1e-6
"""Of a token: less is not waited for."""


class Bucket:
    """One token bucket; who waits is served in the order of asking. Must be used from one event loop."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._level = limit.size
        self._at = 0.0
        self._turn = asyncio.Lock()

    def _fill(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._at:
            self._level = min(self._limit.size, self._level + (now - self._at) * self._limit.refill_per_s)
        self._at = now

    async def take(self, tokens: float = 1.0) -> None:
        """Waits until there are so many (at most the bucket's size is ever asked), and takes them."""
        tokens = min(tokens, self._limit.size)
        async with self._turn:
            self._fill()
            while self._level < tokens - _ROUNDING:
                await asyncio.sleep((tokens - self._level) / self._limit.refill_per_s)
                self._fill()
            self._level -= tokens

    def drain(self) -> None:
        """The service says that it is empty."""
        self._fill()
        self._level = min(self._level, 0.0)


class Pace:
    """All buckets of an account."""

    def __init__(self, limits: dict[str, Limit] | None = None) -> None:
        """``limits``: others than AWS publishes, by the names of ``LIMITS``; those missing do not limit."""
        self._buckets = {name: Bucket(limit) for name, limit in (LIMITS if limits is None else limits).items()}

    async def wait(self, service: str, operation: str, instances: int = 0) -> None:
        """Waits until the call may be made. ``instances``: how many it launches."""
        bucket = self._buckets.get(bucket_of(service, operation))
        if instances and (counting := self._buckets.get(RUN_INSTANCES_COUNT)) is not None:
            await counting.take(instances)
        if bucket is not None:
            await bucket.take()

    def throttled(self, service: str, operation: str) -> None:
        """The service has refused such a call for its rate."""
        bucket = self._buckets.get(bucket_of(service, operation))
        if bucket is not None:
            bucket.drain()
