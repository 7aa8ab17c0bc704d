"""Objects as json, yaml or ``kind/name`` lines, for programs and for ``apply -f -``."""

import json
import sys
from collections.abc import Sequence

from cli.output.objects import Document, complete

PIECE = 32_768
"""Characters written at once."""


def qualified(obj: Document) -> str:
    """``pod/web``."""
    return f"{obj['kind'].lower()}/{obj['metadata']['name']}"


def names(objects: Sequence[Document]) -> str:
    """One ``kind/name`` line per object."""
    return "".join(f"{qualified(obj)}\n" for obj in objects)


def bundle(objects: Sequence[Document], *, single: bool) -> Document:
    """The one object itself when ``single``, else a List of them as kubectl prints it."""
    if single:
        return complete(objects[0])
    return {"kind": "List", "apiVersion": "v1", "items": [complete(obj) for obj in objects]}


def as_json(document: object) -> str:
    """Indented JSON; text stays readable."""
    return json.dumps(document, indent=4, ensure_ascii=False) + "\n"


def as_yaml(document: object) -> str:
    """Block style, in the order given."""
    import yaml

    base = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dumper = type("Dumper", (base,), {"ignore_aliases": lambda *_: True})
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def write(text: str) -> None:
    """To stdout, at once.

    In pieces: a single big write to a pipe whose reader goes away meanwhile may end short and say nothing of it.
    """
    for at in range(0, len(text), PIECE):
        sys.stdout.write(text[at : at + PIECE])
    sys.stdout.flush()
