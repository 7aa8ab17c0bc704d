"""A cloud of hollow instances in one process: ``python -m benchmarks.hollow_cloud --socket PATH --tls CA CERT KEY``.

It speaks the hypervisor's protocol on a Unix socket, as the local cloud's daemon does, and serves the node agents of
all instances from one port. The controllers run against it unchanged. An instance is an address from 127.1.0.1 on that
runs at once; nothing is booted. The agents' records (``nodeagent.hollow``) tell whether a pod was ever started twice.
"""

import argparse
import asyncio
import ipaddress
import resource
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from cloud.local.faults import FaultBook
from cloud.local.fleet import CLUSTER_TAG
from cloud.local.proto import hypervisor_pb2_grpc
from cloud.local.service import HypervisorService
from milpa_ray.errors import LaunchRejected
from milpa_ray.ports import AGENT_PORT, Instance, InstanceState, LaunchCall
from nodeagent.hollow import Behaviour, serve_hollow

FIRST_ADDRESS = int(ipaddress.IPv4Address("127.1.0.1"))
TERMINATED_KEPT_S = 20.0
FILES_PER_NODE = 1
OTHER_FILES = 200


class HollowFleet:
    """The instances; has the methods of ``cloud.local.fleet.Fleet`` that the service calls. Addresses are never used
    twice, so an agent's record is that of one instance. ``power_off`` is told the address of each one that ends."""

    def __init__(self, power_off: Callable[[str], None]) -> None:
        self.faults = FaultBook()
        self._power_off = power_off
        self._instances: dict[str, Instance] = {}
        self._launches: dict[str, tuple[LaunchCall, tuple[str, ...]]] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._address = FIRST_ADDRESS

    def launch(self, call: LaunchCall) -> list[Instance]:
        """As ``Compute.launch``; the instances run already."""
        known = self._launches.get(call.token)
        if known is None:
            made = [self._make(call, index) for index in range(call.count)]
            self._instances.update((instance.id, instance) for instance in made)
            self._launches[call.token] = (call, tuple(instance.id for instance in made))
            return made
        before, ids = known
        if before != call:
            raise LaunchRejected("IdempotentParameterMismatch", f"token {call.token} was used for a different launch")
        return [
            self._instances.get(i) or Instance(i, InstanceState.TERMINATED, call.token, index)
            for index, i in enumerate(ids)
        ]

    def _make(self, call: LaunchCall, index: int) -> Instance:
        address = str(ipaddress.IPv4Address(self._address))
        self._address += 1
        return Instance(
            id=f"i-{secrets.token_hex(8)}0",
            state=InstanceState.RUNNING,
            token=call.token,
            launch_index=index,
            instance_type=call.instance_type,
            zone=call.zone,
            spot=call.spot,
            private_ip=address,
            private_dns=f"ip-{address.replace('.', '-')}.hollow.internal",
            launched_at=time.time(),
            tags=call.tags,
        )

    def describe(self, cluster: str) -> list[Instance]:
        """As ``Compute.list_instances``."""
        self._forget()
        return [i for i in self._instances.values() if not cluster or i.tags.get(CLUSTER_TAG) == cluster]

    def terminate(self, instance_ids: Iterable[str]) -> Mapping[str, InstanceState]:
        """As ``Compute.terminate``; they are terminated at once."""
        states = {}
        for instance_id in instance_ids:
            instance = self._instances.get(instance_id)
            if instance is not None:
                if instance.state is not InstanceState.TERMINATED:
                    self._instances[instance_id] = replace(instance, state=InstanceState.TERMINATED)
                    self._ended.append((time.monotonic(), instance_id))
                    self._power_off(instance.private_ip)
                states[instance_id] = InstanceState.TERMINATED
        return states

    def vanish(self, pattern: str) -> None:
        """Scripted vanishing is the local cloud's; here every instance lives until it is terminated."""
        raise LaunchRejected("UnsupportedOperation", f"hollow instances do not vanish ({pattern})")

    def _forget(self) -> None:
        while self._ended and time.monotonic() - self._ended[0][0] > TERMINATED_KEPT_S:
            self._instances.pop(self._ended.popleft()[1], None)


async def _serve(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    ca, cert, key = (path.read_bytes() for path in options.tls)
    credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    behaviour = Behaviour(start_delay_s=options.start_delay_s, heartbeat_s=options.heartbeat_s)
    agent_server, agents, _ = await serve_hollow(behaviour, f"0.0.0.0:{options.port}", credentials)
    server = grpc.aio.server()
    service = HypervisorService(_as_fleet(HollowFleet(agents.power_off)), lambda _keep: ended.set())
    hypervisor_pb2_grpc.add_HypervisorServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix:{options.socket}")
    await server.start()
    print(f"hollow cloud ready: {options.socket}, agents on port {options.port}", flush=True)
    await ended.wait()
    agents.close()
    await server.stop(0.5)
    await agent_server.stop(0.5)


def _as_fleet(fleet: HollowFleet) -> Any:
    """The service names the local cloud's class; it needs only what ``HollowFleet`` has."""
    return fleet


def _raise_file_limit(nodes: int) -> None:
    wanted = nodes * FILES_PER_NODE + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"{nodes} nodes need {wanted} open files, the limit is {hard}: raise it (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hollow_cloud", description=(__doc__ or "").partition("\n\n")[0]
    )
    add = parser.add_argument
    add("--socket", type=Path, required=True, help="Unix socket of the hypervisor's service")
    add("--tls", nargs=3, type=Path, required=True, metavar=("CA", "CERT", "KEY"), help="the agents' PEM files")
    add("--port", type=int, default=AGENT_PORT, help=f"the agents' port (default {AGENT_PORT})")
    add("--nodes", type=int, default=10_000, help="most instances at a time (default 10000)")
    add("--start-delay-s", type=float, default=0.0, help="from a dispatch until its units run")
    add("--heartbeat-s", type=float, default=10.0, help="interval of heartbeats (default 10)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        chosen = _options()
        _raise_file_limit(chosen.nodes)
        asyncio.run(_serve(chosen))
    except (OSError, RuntimeError) as error:
        sys.exit(f"hollow cloud: {error}")
