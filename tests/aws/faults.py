"""What a test scripts to go wrong at the AWS API: errors, lost requests and responses, calls that hang, no capacity,
instances that Describe does not show yet. Decides only; the proxy acts on it. Safe in threads.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatchcase

from tests.aws.calls import Answer, Call, refusal

HOLD_LIMIT_S = 120.0


class Effect(Enum):
    """What becomes of a call."""

    PASS = auto()
    """It goes on; for calls that are only held."""
    ERROR = auto()
    """It is refused and has no effect."""
    LOSE_REQUEST = auto()
    """It has no effect, and the connection is cut."""
    LOSE_RESPONSE = auto()
    """It takes effect, and the connection is cut."""


@dataclass(eq=False)
class Rule:
    """Strikes the calls whose action matches the glob ``action`` and that ``fits`` accepts: lets ``skip`` of them pass
    first, then strikes ``times`` (None: for ever). ``held``: the call waits, before anything else, for ``release``."""

    action: str
    effect: Effect = Effect.ERROR
    code: str = "InternalError"
    message: str = ""
    status: int = 0
    skip: int = 0
    times: int | None = 1
    fits: Callable[[Call], bool] = lambda call: True
    held: bool = False
    struck: int = field(default=0, init=False)
    entered: threading.Event = field(default_factory=threading.Event, init=False)
    """Set when the first call has been struck."""
    _go: threading.Event = field(default_factory=threading.Event, init=False)

    def release(self) -> None:
        """Lets held calls go on."""
        self._go.set()

    def wait(self) -> None:
        """Returns once released; at once for a rule that holds nothing."""
        if self.held:
            self._go.wait(HOLD_LIMIT_S)

    def answer(self, call: Call) -> Answer:
        """The refusal of an ``ERROR`` rule."""
        return refusal(call, self.code, self.message, self.status)


class RuleBook:
    """The rules in force; the oldest that fits strikes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Drops all rules and lets go what they hold."""
        with self._lock:
            for rule in self._rules:
                rule.release()
            self._rules.clear()

    def take(self, call: Call) -> Rule | None:
        """The rule that strikes this call, counted."""
        with self._lock:
            for rule in self._rules:
                if not fnmatchcase(call.action, rule.action) or not rule.fits(call):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                elif rule.times is None or rule.struck < rule.times:
                    rule.struck += 1
                    rule.entered.set()
                    return rule
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a launch asks for. ``least`` and ``most`` are its MinCount and MaxCount."""

    instance_type: str
    zone: str
    spot: bool
    least: int
    most: int


@dataclass
class Shortage:
    """``left`` instances of matching type, zone and market can still be had; then launches are refused with
    ``code``."""

    instance_type: str = "*"
    zone: str = "*"
    spot: bool | None = None
    left: int = 0
    code: str = "InsufficientInstanceCapacity"

    def fits(self, wanted: Wanted) -> bool:
        return (
            fnmatchcase(wanted.instance_type, self.instance_type)
            and fnmatchcase(wanted.zone, self.zone)
            and self.spot in (None, wanted.spot)
        )


class Capacity:
    """How many instances a launch gets: all that it asks for, except in shortages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shortages: list[Shortage] = []

    def add(self, shortage: Shortage) -> Shortage:
        with self._lock:
            self._shortages.append(shortage)
        return shortage

    def clear(self) -> None:
        with self._lock:
            self._shortages.clear()

    def grant(self, call: Call, wanted: Wanted) -> int | Answer:
        """The number of instances, between ``least`` and ``most``, or the refusal."""
        with self._lock:
            bounds = [shortage for shortage in self._shortages if shortage.fits(wanted)]
            tightest = min(bounds, key=lambda shortage: shortage.left, default=None)
            granted = wanted.most if tightest is None else min(wanted.most, tightest.left)
            if tightest is not None and granted < max(1, wanted.least):
                return refusal(call, tightest.code, f"no {wanted.instance_type} to be had in {wanted.zone} (scripted)")
            for shortage in bounds:
                shortage.left -= granted
            return granted


class Lag:
    """Instances that exist but that Describe does not show yet. ``refuse_changes``: calls that name them fail, too, as
    they may on EC2 for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._coming: list[float] = []
        self._until: dict[str, float] = {}
        self.refuse_changes = False

    def hide_next(self, seconds: float, instances: int = 1) -> None:
        """Hides the next ``instances`` launched for so long."""
        with self._lock:
            self._coming += [seconds] * instances

    def launched(self, instance_ids: Iterable[str]) -> None:
        """Told by the proxy."""
        with self._lock:
            for instance_id in instance_ids:
                if not self._coming:
                    return
                self._until[instance_id] = self._clock() + self._coming.pop(0)

    def hidden(self) -> frozenset[str]:
        """What is hidden now."""
        with self._lock:
            return frozenset(name for name, until in self._until.items() if until > self._clock())
