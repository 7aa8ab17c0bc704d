"""``python -m nodeagent``: the agent of one node. Started, and started again when it dies, by the instance's init."""

import argparse
import asyncio
import logging
import logging.handlers
import signal
import sys
import time
from pathlib import Path

from milpa_ray.clock import SystemClock
from milpa_ray.ports import AGENT_PORT
from milpa_ray.userdata import UserData
from nodeagent.agent import NodeAgent
from nodeagent.images import ImageStore, Registries
from nodeagent.imds import InstanceMetadata
from nodeagent.interruption import metadata_enabled, watch_interruption
from nodeagent.node import node_facts
from nodeagent.records import Memory
from nodeagent.root_volume import RootVolume
from nodeagent.runtime import Runtime
from nodeagent.service import Service, serve
from nodeagent.state_dir import StateDir
from nodeagent.tls import NodeCertificates
from nodeagent.unit import BackOff, UnitTools

LOG_BYTES = 2 * 1024 * 1024
log = logging.getLogger("nodeagent")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nodeagent", description="Milpa's agent: runs one pod on this node")
    add = parser.add_argument
    add("--user-data", type=Path, required=True, help="file with the user data that the instance was launched with")
    add("--state-dir", type=Path, required=True, help="directory for all that must survive the agent")
    add("--listen", default="0.0.0.0", help="address to serve on (default: all)")  # noqa: S104
    add("--port", type=int, default=AGENT_PORT, help=f"port to serve on, 0 picks one (default {AGENT_PORT})")
    add("--image-cache", type=Path, help="directory of unpacked images, may be shared by agents of one machine")
    add("--localhost-registry", default="", metavar="HOST", help="where images of registry 'localhost' are pulled from")
    add("--insecure-registry", action="append", default=[], metavar="HOST", help="registry without valid TLS")
    add("--cgroup-parent", default="/milpa", help="cgroup below which units are put (default /milpa)")
    add(
        "--grow-root", action="store_true", help="let the root file system fill its disk: this machine is the pod's own"
    )
    add("--heartbeat-s", type=float, default=10.0, help="interval of heartbeats (default 10)")
    add("--restart-back-off-s", type=float, default=10.0, help="first pause before a unit's restart (default 10)")
    return parser.parse_args()


def _log_to(path: Path) -> None:
    file = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    for handler in (file, logging.StreamHandler()):
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


async def _run(options: argparse.Namespace, user_data: UserData, dirs: StateDir) -> None:
    memory = Memory(dirs)
    certificates = NodeCertificates(user_data, dirs)
    registries = Registries(options.localhost_registry, frozenset(options.insecure_registry))
    images = ImageStore(options.image_cache or dirs.images, dirs.scratch, registries)
    back_off = BackOff(first_s=options.restart_back_off_s)
    root = RootVolume() if options.grow_root else None
    tools = UnitTools(dirs, Runtime(dirs), images, SystemClock(), back_off, root)
    agent = NodeAgent(memory, tools, node_facts(dirs.etc, memory.place_units(options.cgroup_parent)))
    service = Service(agent, memory, certificates, dirs, options.heartbeat_s)
    agent.resume()
    server, port = await serve(service, certificates, f"{options.listen}:{options.port}")
    secured = "mutual TLS" if certificates.enabled else "no TLS"
    log.info("serving on %s:%d with %s", options.listen, port, secured)
    # The port for whoever asked for a free one; nothing else reads this file.
    (dirs.root / "port").write_text(f"{port}\n")
    watching = None
    if metadata_enabled():
        watching = asyncio.create_task(watch_interruption(InstanceMetadata(), agent.interrupted, SystemClock()))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    if watching is not None:
        watching.cancel()
    agent.end_watches()
    await server.stop(0.5)
    await agent.close()
    log.info("ended; units go on")


def main() -> int:
    """Exit code 2: the options or files are wrong; 1: the state directory or the port is taken."""
    options = _options()
    try:
        user_data = UserData.unpack(options.user_data.read_bytes())
        dirs = StateDir(options.state_dir)
        dirs.create()
    except (OSError, ValueError) as error:
        print(f"nodeagent: {error}", file=sys.stderr)
        return 2
    try:
        dirs.lock()
    except BlockingIOError:
        print(f"nodeagent: another agent runs on {dirs.root}", file=sys.stderr)
        return 1
    _log_to(dirs.agent_log)
    try:
        asyncio.run(_run(options, user_data, dirs))
    except RuntimeError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
