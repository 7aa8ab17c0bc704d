"""One Milpa for all drills, with 20 pods that must never notice anything; nothing is left of it at the end."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.drills import Cluster, Fleet
from tests.e2e.leaks import Marks, held, now_in_ticks, traces
from tests.oci import build_busybox_image, running_registry
from tests.waiting import wait_until

PODS = 20


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Milpa that is up."""
    with tempfile.TemporaryDirectory(prefix="milpa-e2e-") as text, running_registry(Path(text) / "reg") as registry:
        folder = Path(text)
        registry.push(build_busybox_image(folder / "image"), "box:latest")
        made = Cluster.prepare(folder / "home", registry.port)
        assert isinstance(made, Cluster)
        made.image = f"localhost:{registry.port}/box:latest"
        namespaces: set[str] = set()
        before = 0
        try:
            made.ok("milpa", "up")
            yield made
            namespaces = traces(marks_of(made)).get("namespace", set())
            before = now_in_ticks()
        finally:
            down = made.milpa("down")
        assert down.returncode == 0, down.stderr
        assert traces(marks_of(made)) == {}
        assert slips(made) == []
        # The machine's init takes its time to reap the instances' first processes, which hold a namespace until then.
        wait_until(lambda: not held(namespaces, before), 10, "namespaces are gone")


def slips(cluster: Cluster) -> list[str]:
    """Lines in the controllers' logs that no fault from outside may bring about."""
    signs = ("Traceback", "never retrieved", "was destroyed")
    lines = [line for path in sorted(cluster.home.log.glob("*.log")) for line in path.read_text().splitlines()]
    return [line for line in lines if any(sign in line for sign in signs)]


@pytest.fixture(scope="session")
def marks(cluster: Cluster) -> Marks:
    return marks_of(cluster)


def marks_of(cluster: Cluster) -> Marks:
    return Marks((str(cluster.home.root),), cluster.bridge, cluster.settings()["cloud"]["local"]["subnet"])


@pytest.fixture(scope="session")
def fleet(cluster: Cluster) -> Fleet:
    """20 pods that run."""
    names = tuple(f"steady-{number:02}" for number in range(PODS))
    cluster.create(*(cluster.pod(name, labels={"fleet": "steady"}) for name in names))
    cluster.when_running(*names, timeout_s=90)
    pods = cluster.items("pods", "-l", "fleet=steady")
    instances = frozenset(pods[name]["status"]["boundInstanceID"] for name in names)
    assert len(instances) == PODS
    processes = frozenset(process for process in cluster.unit_processes() if process.instance in instances)
    assert {process.instance for process in processes} == instances
    return Fleet(cluster, names, instances, processes)
