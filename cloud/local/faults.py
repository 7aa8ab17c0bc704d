"""Scripted faults of the local cloud: what they are, when they strike, and a small command to set them.

    python -m cloud.local.faults --socket PATH set no-capacity --type 'c5*' --zone us-east-1a --spot --times 3
    python -m cloud.local.faults --socket PATH set boot-hang --times 1
    python -m cloud.local.faults --socket PATH set api-error --call terminate --code InternalError --times 2
    python -m cloud.local.faults --socket PATH set list-lag --seconds 5
    python -m cloud.local.faults --socket PATH set vanish --instance i-0123456789abcdef0
    python -m cloud.local.faults --socket PATH set spot-interruption --type 'c5*' --seconds 120
    python -m cloud.local.faults --socket PATH show
    python -m cloud.local.faults --socket PATH clear

They live in the hypervisor's memory and end with it. This module decides only whether a fault strikes; the service and
the fleet act on it.
"""

import argparse
import json
import sys
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_FAULTS = 1000


class FaultKind(StrEnum):
    """What goes wrong."""

    NO_CAPACITY = "no-capacity"
    """Launches of matching type, zone and spot are refused."""
    SHORT_LAUNCH = "short-launch"
    """Launches give at most ``count`` instances."""
    BOOT_HANG = "boot-hang"
    """A launched instance runs, but its agent never starts. Strikes once per instance."""
    BOOT_DELAY = "boot-delay"
    """A launched instance stays pending for ``seconds`` more. Strikes once per instance."""
    VANISH = "vanish"
    """Matching living instances are killed now; nothing is remembered."""
    SPOT_INTERRUPTION = "spot-interruption"
    """Matching living spot instances are told now that they are taken back, and are killed ``seconds`` later."""
    API_ERROR = "api-error"
    """Calls fail with ``code`` and have no effect."""
    THROTTLE = "throttle"
    """Calls fail with RequestLimitExceeded and have no effect."""
    LOST_RESPONSE = "lost-response"
    """Calls take effect, but their caller sees an error."""
    LIST_LAG = "list-lag"
    """Lists tell what was true ``seconds`` ago."""


AT_ONCE = frozenset({FaultKind.VANISH, FaultKind.SPOT_INTERRUPTION})
"""Faults that are carried out when they are set, and not kept."""
INTERRUPTION_NOTICE_S = 120.0
"""EC2's notice: what a ``spot-interruption`` without ``seconds`` gives."""


class Fault(BaseModel):
    """One rule. ``times`` is how often it strikes (None: until cleared); patterns are globs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    times: int | None = Field(default=None, ge=1)
    type: str = "*"
    zone: str = "*"
    spot: bool | None = None
    call: str = Field(default="*", pattern=r"^(launch|list|terminate|\*)$")
    code: str = Field(default="", pattern=r"^[A-Za-z.]*$")
    seconds: float = Field(default=0.0, ge=0, le=86_400)
    count: int = Field(default=0, ge=0)
    instance: str = "*"

    def fits(self, *, instance_type: str = "", zone: str = "", spot: bool = False, call: str = "") -> bool:
        """Whether the rule speaks of this call or instance; what is not given isn't compared."""
        return (
            (not instance_type or fnmatchcase(instance_type, self.type))
            and (not zone or fnmatchcase(zone, self.zone))
            and (not instance_type or self.spot is None or self.spot is spot)
            and (not call or self.call in ("*", call))
        )


class FaultBook:
    """The rules in force, oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def take(self, kind: FaultKind, **facts: Any) -> Fault | None:
        """The first rule of that kind that fits, counted as struck once (arguments as for ``Fault.fits``)."""
        for index, fault in enumerate(self._faults):
            if fault.kind is kind and fault.fits(**facts):
                if fault.times is not None:
                    left = fault.times - 1
                    self._faults[index : index + 1] = [fault.model_copy(update={"times": left})] if left else []
                return fault
        return None

    def apply(self, request: str) -> list[Fault]:
        """Carries out a request: ``{"clear": true}`` and/or ``{"add": [rule, ...]}``; ``{}`` changes nothing.

        Returns the rules that are to be carried out at once.

        Raises:
            ValueError: the request is wrong; nothing was changed.
        """
        asked = json.loads(request or "{}")
        if not isinstance(asked, dict) or not set(asked) <= {"clear", "add"}:
            raise ValueError('faults: expected an object with "clear" and/or "add"')
        try:
            added = [Fault.model_validate(entry) for entry in asked.get("add", [])]
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"faults: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        kept = [] if asked.get("clear") else self._faults
        lasting = [fault for fault in added if fault.kind not in AT_ONCE]
        if len(kept) + len(lasting) > MAX_FAULTS:
            raise ValueError(f"faults: more than {MAX_FAULTS} rules; clear some")
        self._faults = kept + lasting
        return [fault for fault in added if fault.kind in AT_ONCE]

    def dump(self) -> str:
        """The rules in force as a JSON array."""
        return json.dumps([fault.model_dump(mode="json", exclude_defaults=True) for fault in self._faults])


# ---------------------------------------------------------------- command


def main(arguments: list[str] | None = None) -> int:
    """The command of the module's docstring."""
    import grpc

    from cloud.local.proto import hypervisor_pb2, hypervisor_pb2_grpc

    options = _parser().parse_args(arguments)
    request: dict[str, Any] = {}
    if options.action == "clear":
        request["clear"] = True
    elif options.action == "set":
        names = ("kind", "times", "type", "zone", "spot", "call", "code", "seconds", "count", "instance")
        request["add"] = [{name: getattr(options, name) for name in names if getattr(options, name) is not None}]
    with grpc.insecure_channel(f"unix:{options.socket}") as channel:
        stub = hypervisor_pb2_grpc.HypervisorStub(channel)  # type: ignore[no-untyped-call]
        try:
            reply = stub.SetFaults(hypervisor_pb2.FaultsRequest(json=json.dumps(request)), timeout=10.0)
        except grpc.RpcError as error:
            print(f"error: {error.details()}", file=sys.stderr)
            return 1
    for rule in json.loads(reply.json):
        print(json.dumps(rule))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cloud.local.faults", description="Scripted faults")
    parser.add_argument("--socket", type=Path, required=True, help="the hypervisor's socket")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("show", help="show the rules in force")
    actions.add_parser("clear", help="drop all rules")
    rule = actions.add_parser("set", help="add a rule")
    rule.add_argument("kind", choices=[kind.value for kind in FaultKind])
    rule.add_argument("--times", type=int, help="how often it strikes (default: until cleared)")
    rule.add_argument("--type", help="instance types (glob)")
    rule.add_argument("--zone", help="zones (glob)")
    rule.add_argument("--spot", action=argparse.BooleanOptionalAction, help="spot only, or on-demand only")
    rule.add_argument("--call", choices=["launch", "list", "terminate", "*"])
    rule.add_argument("--code", help="error code, EC2's names")
    rule.add_argument("--seconds", type=float)
    rule.add_argument("--count", type=int, help="most instances of a short launch")
    rule.add_argument("--instance", help="instance ids (glob)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
