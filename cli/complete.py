"""Words that the shell offers after Tab: commands and flags come from typer, kinds and names from here.

Names are asked from the server with a short time-out; when it cannot be reached there are simply none.
"""

from collections.abc import Iterator

import typer

from cli.kinds import BY_NAME, KINDS

TIMEOUT_S = 1.5
MOST = 500
"""Names offered at most."""


def complete_kind(incomplete: str) -> list[str]:
    """Plural names of the kinds."""
    return [kind.plural for kind in KINDS if kind.plural.startswith(incomplete.lower())]


def complete_target(ctx: typer.Context, incomplete: str) -> list[str]:
    """A kind first, then names of that kind; ``kind/`` is followed by names as well."""
    before = _words_before(ctx)
    if "/" in incomplete:
        kind, _, start = incomplete.partition("/")
        return [f"{kind}/{name}" for name in _names(ctx, kind, start)]
    return list(_names(ctx, before[0], incomplete)) if before else complete_kind(incomplete)


def complete_log_source(ctx: typer.Context, incomplete: str) -> list[str]:
    """Pods and nodes."""
    return [*_names(ctx, "pod", incomplete), *_names(ctx, "node", incomplete)]


def _words_before(ctx: typer.Context) -> list[str]:
    given = ctx.params.get("targets") or []
    return [str(word) for word in given]


def _names(ctx: typer.Context, kind_text: str, start: str) -> Iterator[str]:
    import json

    from cli.connection import Connection

    kind = BY_NAME.get(kind_text.lower())
    if kind is None:
        return
    params = {**(ctx.parent.params if ctx.parent else {}), **{k: v for k, v in ctx.params.items() if v}}
    inner = Connection.of(params.get("endpoints"), params.get("cert_dir"), bool(params.get("disable_tls")))
    found = 0
    try:
        with inner.client(TIMEOUT_S) as client:
            for data in client.list_raw(kind.name):
                name = str(json.loads(data)["metadata"]["name"])
                if name.startswith(start) and found < MOST:
                    found += 1
                    yield name
    except Exception:
        # Whatever it is, a message in the middle of the user's command line would be worse than no names.
        return
