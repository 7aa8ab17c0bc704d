"""The local cloud of one home, set up as ``server.yml`` says."""

from pathlib import Path

from cloud.local.lifecycle import CloudOptions, LocalCloud
from milpa_ray.paths import Home
from milpa_ray.settings import Settings

INSTANCE_BYTES = 64 << 20
"""What an instance of its own takes: the agent, init, conmon. The pod's memory comes on top and is the user's."""
RESERVED_BYTES = 1 << 30
MAX_INSTANCES = 250


def hypervisor_socket(home: Home) -> Path:
    """Where the hypervisor daemon of ``home`` takes calls."""
    return LocalCloud(home.local, home.run).socket


def local_cloud(home: Home, settings: Settings | None = None) -> LocalCloud:
    """The local cloud of ``home``. Without ``settings`` good for stopping and taking down only."""
    local = settings.cloud.local if settings is not None else None
    if settings is None or local is None:
        return LocalCloud(home.local, home.run)
    options = CloudOptions(
        bridge=local.bridge,
        subnet=local.subnet,
        region=local.region,
        catalog=str(home.catalog),
        registry_ports=local.registry_ports,
        host_ports=(settings.controllers.api_port,),
        boot_delay_s=local.boot_delay_s,
        max_instances=local.max_instances or _max_instances(),
    )
    return LocalCloud(home.local, home.run, options)


def _max_instances() -> int:
    """As many as the machine's memory has room for. Of its size, not of what is free at the moment, so that the same
    machine always gives the same answer."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:")) * 1024
    return max(1, min(MAX_INSTANCES, (total - RESERVED_BYTES) // INSTANCE_BYTES))
