"""The kinds by the names that users type, and the reading of ``KIND NAME...`` and ``KIND/NAME`` arguments.

``milpa_ray.api.kinds`` is the truth; this is its copy without the models, whose import would cost a command that only
lists objects a good part of its time. A test holds the two together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from cli.reporting import UsageError


@dataclass(frozen=True, slots=True)
class KindName:
    """One kind: canonical name (``Pod``), plural and abbreviations as typed."""

    name: str
    plural: str
    short: tuple[str, ...] = ()

    @property
    def lower(self) -> str:
        """As in ``pod/web``."""
        return self.name.lower()


KINDS: tuple[KindName, ...] = (
    KindName("Pod", "pods", ("po",)),
    KindName("Node", "nodes", ("no",)),
    KindName("Service", "services", ("svc",)),
    KindName("ReplicaSet", "replicasets", ("rs",)),
    KindName("Deployment", "deployments", ("deploy",)),
    KindName("Secret", "secrets"),
    KindName("Event", "events", ("ev",)),
    KindName("LogFile", "logfiles", ("log",)),
    KindName("Endpoints", "endpoints", ("ep",)),
)
ALL = ("Pod", "Service", "Deployment", "ReplicaSet", "Node")
"""What ``get all`` shows: what runs, and what it runs on."""

BY_NAME: dict[str, KindName] = {
    alias.lower(): kind for kind in KINDS for alias in (kind.name, kind.plural, kind.name + "s", *kind.short)
}


@dataclass(frozen=True, slots=True)
class Target:
    """Objects of one kind: those named, or all when ``names`` is empty."""

    kind: KindName
    names: tuple[str, ...] = ()


def kind_called(text: str) -> KindName:
    """The kind that ``text`` names (any case, plural or abbreviation).

    Raises:
        UsageError: there is none; the message names the nearest, or all.
    """
    kind = BY_NAME.get(text.lower())
    if kind is not None:
        return kind
    near = get_close_matches(text.lower(), [k.plural for k in KINDS], n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else "the kinds are " + ", ".join(k.plural for k in KINDS)
    raise UsageError(f'unknown kind "{text}"; {hint}')


def parse_targets(args: Sequence[str]) -> list[Target]:
    """Reads ``KIND[,KIND...] [NAME...]`` or ``KIND/NAME...``; ``all`` stands for the kinds in ``ALL``.

    Raises:
        UsageError: nothing given, an unknown kind, an empty name, or the two ways mixed.
    """
    if not args:
        raise UsageError("say which kind, for example pods; the kinds are " + ", ".join(k.plural for k in KINDS))
    if any("/" in arg for arg in args):
        return _slashed(args)
    kinds = _listed(args[0])
    names = tuple(dict.fromkeys(args[1:]))
    if "" in names:
        raise UsageError("a name is empty; is a variable of the script not set?")
    if names and len(kinds) > 1:
        raise UsageError("names need a single kind before them; or write KIND/NAME for each object")
    return [Target(kind, names) for kind in kinds]


def _listed(text: str) -> list[KindName]:
    found: dict[str, KindName] = {}
    for part in text.split(","):
        names: Iterable[str] = ALL if part.lower() == "all" else (part,)
        for name in names:
            kind = kind_called(name)
            found[kind.name] = kind
    return list(found.values())


def _slashed(args: Sequence[str]) -> list[Target]:
    named: dict[KindName, dict[str, None]] = {}
    for arg in args:
        kind, slash, name = arg.partition("/")
        if not slash or not kind or not name or "/" in name:
            raise UsageError(f'"{arg}" is not KIND/NAME; write either KIND NAME... or KIND/NAME for every object')
        named.setdefault(kind_called(kind), {})[name] = None
    return [Target(kind, tuple(names)) for kind, names in named.items()]
