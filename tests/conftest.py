"""Fixtures that several rooms' tests share."""

import signal
from collections.abc import Iterator

import pytest

from tests.etcd_server import EtcdServer


def pytest_configure() -> None:
    """A shell that runs the tests in the background lets them ignore Ctrl-C, and so all that they start; several tests
    send it to what they started."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One real etcd for the whole run; tests keep apart by cluster names of their own."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_server: EtcdServer) -> str:
    """Its client endpoint, as ``http://127.0.0.1:<port>``."""
    return etcd_server.endpoint
