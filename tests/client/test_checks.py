"""A wrong argument is told as one, before anything is sent: which, why, and what to pass instead."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from milpa_ray.client import AsyncClient, Client
from milpa_ray.errors import Invalid

WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "submit text": (lambda c: c.submit(["x"]), r"objects\[0\]: 'x' is no object; pass objects such as client\.pod"),
    "create number": (lambda c: c.create(5), "objects: 5 is neither an object nor a list of objects; pass"),
    "apply dict": (lambda c: c.apply({"kind": "Pod"}), "objects: {'kind': 'Pod'} is neither"),
    "wait phase": (lambda c: c.wait("a", phases="x"), "phases: pods have no phase 'x'; they have Waiting, Dispatching"),
    "wait nothing": (lambda c: c.wait(), "names: wait needs names or a selector; pass"),
    "wait no phase": (lambda c: c.wait("a", phases=[]), "phases: none is given; they have Waiting"),
    "wait number": (lambda c: c.wait(5), "names: 5 is neither a text nor a list of texts; pass"),
    "wait time": (lambda c: c.wait("a", timeout_s="soon"), "timeout_s: 'soon' is no duration; pass seconds"),
    "delete kind": (lambda c: c.delete(5, "x"), "kind: 5 is no kind; pass a name such as 'pods'"),
    "delete name": (lambda c: c.delete("pod", ["a", 5]), r"names\[1\]: 5 is no text; pass a str"),
    "delete ref": (lambda c: c.delete_refs(["x"]), r"refs\[0\]: 'x' is no Ref; pass Ref"),
    "get name": (lambda c: c.get("pod", 5), "name: 5 is no text; pass a str"),
    "list selector": (lambda c: c.list("pod", 5), "selector: 5 is no text; pass a str"),
    "dump what": (lambda c: c.dump(3), "what: 3 is no text; pass a str"),
}
STREAMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "lines": (lambda c: c.logs("a", lines="all"), "lines: 'all' is no whole number from 0 to .*; 0 stands for"),
    "bytes": (lambda c: c.logs("a", limit_bytes=-1), "limit_bytes: -1 is no whole number"),
    "watch": (lambda c: c.watch("pod", selector={"a": "b"}), "selector: {'a': 'b'} is no text"),
    "revision": (lambda c: c.watch("pod", revision="7"), "revision: '7' is no revision; pass one that"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_calls(name: str) -> None:
    call, words = WRONG[name]
    with pytest.raises(Invalid, match=words):
        call(Client(["127.0.0.1:9"], tls=False))
    with pytest.raises(Invalid, match=words):
        await call(AsyncClient(["127.0.0.1:9"], tls=False))


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name: str) -> None:
    call, words = STREAMS[name]
    with pytest.raises(Invalid, match=words):
        next(call(Client(["127.0.0.1:9"], tls=False)))

    async def one() -> None:
        await anext(call(AsyncClient(["127.0.0.1:9"], tls=False)))

    with pytest.raises(Invalid, match=words):
        asyncio.run(one())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"foo": 3}, "pod 'a': spec.foo: unknown field; known are phase, restart_policy"),
        ({"restart_polcy": "never"}, "spec.restart_polcy: unknown field; did you mean 'restart_policy'"),
        ({"resources": {"cpus": "2"}}, "spec.resources.cpus: unknown field; did you mean 'cpu'"),
        ({"restart_policy": "sometimes"}, "spec.restart_policy: Input should be 'always', 'onFailure' or 'never'"),
        ({"env": "A=1"}, "env: 'A=1' is no mapping; pass a dict such as {'A': '1'}"),
        ({"env": {"A": 1}}, r"env\['A'\]: 1 is no text; pass a str"),
        ({"labels": ["x"]}, r"labels: \['x'\] is no mapping"),
        ({"command": 5}, "command: 5 is neither a text nor a list of texts"),
        ({"command": ["sleep", 5]}, r"command\[1\]: 5 is no text"),
        ({"units": ()}, "spec.units: pod.. makes the one unit itself; build others with"),
    ],
)
def test_pods(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        Client.pod("a", "nginx", **fields)


@pytest.mark.parametrize("option", [{"timeout_s": "30"}, {"retry_s": -1}, {"timeout_s": None}])
def test_clients(option: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="is no duration; pass seconds, 0 or more"):
        Client(**option)


def test_phases_in_any_case_and_generators_of_names_are_right() -> None:
    from milpa_ray.client.waiting import PodWait

    assert PodWait((name for name in ("a", "b")), "", ["running", "SUCCEEDED"]).wanted == "Running or Succeeded"
