"""EC2's published throttling: token buckets by kind of call, per account and region. Route53 has one for all calls.

A bucket holds ``size`` tokens at most and gains ``refill`` a second; a call that finds too few is refused and takes
none. Each request takes one; a ``RunInstances`` takes besides as many as it asks for from the bucket of instances.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.aws.calls import Answer, Call, refusal


@dataclass(frozen=True, slots=True)
class Limit:
    """``refill`` is tokens per second."""

    size: float
    refill: float


EC2_LIMITS = {
    "RunInstances": Limit(5, 2),
    "RunInstances instances": Limit(1000, 2),
    "TerminateInstances": Limit(100, 5),
    "CreateTags": Limit(100, 10),
    "Describe": Limit(100, 20),
    "other": Limit(50, 5),
}
"""As AWS publishes them."""
ROUTE53_LIMIT = Limit(5, 5)


class Bucket:
    """One token bucket; ``clock`` tells seconds that never go back."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._limit, self._clock = limit, clock
        self._level, self._at = limit.size, clock()

    def level(self) -> float:
        """Tokens in it now."""
        now = self._clock()
        self._level = min(self._limit.size, self._level + (now - self._at) * self._limit.refill)
        self._at = now
        return self._level

    def take(self, tokens: float = 1.0) -> bool:
        """Takes them; False, and none taken, when there are too few."""
        if self.level() < tokens:
            return False
        self._level -= tokens
        return True


class Throttle:
    """All buckets of one account. Safe in threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def refuse(self, call: Call) -> Answer | None:
        """The refusal of a call that is over the limit; None lets it pass."""
        with self._lock:
            if call.service == "ec2":
                return self._refuse_ec2(call)
            if call.service == "route53" and not self._bucket("global", "route53", ROUTE53_LIMIT).take():
                return refusal(call, "Throttling", "Rate exceeded")
            return None

    def _refuse_ec2(self, call: Call) -> Answer | None:
        kind = kind_of(call.action)
        passes = self._bucket(call.region, kind, EC2_LIMITS[kind]).take()
        if passes and call.action == "RunInstances":
            kind = "RunInstances instances"
            passes = self._bucket(call.region, kind, EC2_LIMITS[kind]).take(int(call.parameters.get("MaxCount", "1")))
        return None if passes else refusal(call, "RequestLimitExceeded", "Request limit exceeded.")

    def _bucket(self, region: str, kind: str, limit: Limit) -> Bucket:
        key = (region, kind)
        if key not in self._buckets:
            self._buckets[key] = Bucket(limit, self._clock)
        return self._buckets[key]


def kind_of(action: str) -> str:
    """Which of ``EC2_LIMITS`` an EC2 action falls under."""
    if action in EC2_LIMITS:
        return action
    return "Describe" if action.startswith(("Describe", "Get")) else "other"
