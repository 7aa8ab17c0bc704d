"""The daemon that plays EC2 on one machine: it owns the instances of one directory.

    python -m cloud.local.hypervisor --dir DIR --socket PATH --bridge milpa0 --subnet 10.210.0.0/16

Runs in a session of its own and outlives the controllers, as the instances outlive it: after a restart it finds them
again by their PID and start time. One daemon per directory (a lock file sees to it). Wires the parts together only.
"""

import argparse
import asyncio
import contextlib
import fcntl
import ipaddress
import logging
import os
import shlex
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import grpc

from cloud.catalog import Current
from cloud.local import machine
from cloud.local.admission import Offers
from cloud.local.boot import AgentSettings
from cloud.local.fleet import Fleet, FleetSettings
from cloud.local.metadata import MetadataServer
from cloud.local.network import Network, NetworkError
from cloud.local.proto import hypervisor_pb2_grpc
from cloud.local.records import Records, boot_id
from cloud.local.service import HypervisorService
from milpa_ray.clock import SystemClock
from milpa_ray.errors import Invalid
from milpa_ray.ports import AGENT_PORT

log = logging.getLogger("milpa.hypervisor")

HOUSEKEEPING_S = 1.0
MAX_SOCKET_PATH = 107
API_PORT = 54555
LOCK_FILE = "hypervisor.lock"


class StartError(Exception):
    """The daemon cannot start; fit for a user."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the daemon until it is told to end (Shutdown call, SIGTERM, SIGINT: the instances go on)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    os.umask(0o077)
    try:
        with _lock(options.dir):
            asyncio.run(_serve(options))
    except (StartError, NetworkError, Invalid) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        raise StartError("the local cloud needs root (network namespaces, mounts): run it with sudo")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"dir: a hypervisor of {directory} is running already") from error
        file.truncate(0)
        file.write(f"{os.getpid()} {machine.start_time_of(os.getpid())} {boot_id()}\n")
        file.flush()
        yield


async def _serve(options: argparse.Namespace) -> None:
    if len(os.fsencode(options.socket)) > MAX_SOCKET_PATH:
        raise StartError(f"socket: the path is over {MAX_SOCKET_PATH} bytes: {options.socket}")
    metadata = MetadataServer()
    network = Network(
        bridge=options.bridge,
        subnet=options.subnet,
        owner=str(options.dir),
        registry_ports=tuple(options.registry_port),
        host_ports=(API_PORT,) if options.host_port is None else tuple(options.host_port),
        metadata_port=metadata.port,
    )
    offers = _offers(options.region, options.catalog)
    network.up()
    fleet = Fleet(Records(options.dir), network, _settings(options), offers, SystemClock())
    fleet.restore()
    metadata.serve(fleet.at_address)
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(keep_instances: bool) -> None:
        if not ended.done():
            ended.set_result(keep_instances)

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, end, True)
    server = grpc.aio.server()
    service = HypervisorService(fleet, end)
    hypervisor_pb2_grpc.add_HypervisorServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    options.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options.socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{options.socket}")
    await server.start()
    options.socket.chmod(0o600)
    log.info("serving on %s, bridge %s, subnet %s", options.socket, network.bridge, network.subnet)
    while not ended.done():
        fleet.housekeeping()
        await asyncio.wait([ended], timeout=HOUSEKEEPING_S)
    await server.stop(grace=1.0)
    await fleet.close(keep_instances=ended.result())
    await asyncio.to_thread(metadata.close)
    options.socket.unlink(missing_ok=True)
    log.info("ended")


def _settings(options: argparse.Namespace) -> FleetSettings:
    command = tuple(shlex.split(options.agent_command)) if options.agent_command else machine.default_agent_command()
    return FleetSettings(
        region=options.region,
        agent=AgentSettings(command, options=not options.agent_command, port=options.agent_port),
        boot_delay_s=options.boot_delay,
        max_instances=options.max_instances,
        terminated_kept_s=options.terminated_kept,
    )


def _offers(region: str, refreshed: Path | None) -> Offers:
    current = Current(region, refreshed)
    # Where nobody recorded a region's zones, the local cloud has three.
    unknown = tuple(f"{region}{letter}" for letter in "abc")

    def zones(instance_type: str) -> Collection[str] | None:
        catalogue = current.get()
        if instance_type not in catalogue:
            return None
        return catalogue.zones_of(instance_type) if catalogue.zones else unknown

    return zones


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cloud.local.hypervisor", description="The local cloud's daemon")
    add = parser.add_argument
    add("--dir", type=_absolute, required=True, help="where instances and images live")
    add("--socket", type=_absolute, required=True, help="Unix socket to serve on")
    add("--bridge", default="milpa0", help="name of the bridge")
    add("--subnet", type=ipaddress.IPv4Network, default=ipaddress.IPv4Network("10.210.0.0/16"))
    add("--region", default="us-east-1", help="region whose types and zones are offered")
    add("--catalog", type=_absolute, help="folder of refreshed prices and zones")
    add("--registry-port", type=int, nargs="*", action="extend", default=[], help="loopback ports for instances")
    add("--host-port", type=int, nargs="*", action="extend", help=f"host ports open to instances ({API_PORT})")
    add("--boot-delay", type=float, default=0.0, help="seconds that each instance stays pending")
    add("--max-instances", type=int, default=250, help="living instances at the same time")
    add("--terminated-kept", type=float, default=300.0, help="seconds that terminated instances stay listed")
    add("--agent-port", type=int, default=AGENT_PORT, help="port of the node agents")
    add("--agent-command", default="", help="runs this in the instances instead of the node agent, as it stands")
    return parser


if __name__ == "__main__":
    sys.exit(main())
