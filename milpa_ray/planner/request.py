"""What one pod asks of its instance, as numbers and flags: the input of every choice.

Turns a pod's spec into a ``Request``; compares it with nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

from milpa_ray.api import quantity
from milpa_ray.api.pod import PodSpec, ResourceSpec

MIB = 1 << 20
DEFAULT_ARCH = "amd64"
"""Images are not made for several architectures by default, so another one must be asked for."""
_GLOB = frozenset("*?")


@dataclass(frozen=True, slots=True)
class Policy:
    """All of a request but its size. Requests of one policy share a table, so there should be few of them.

    ``instance_type`` is a name or a pattern with ``*`` and ``?``; a plain name decides alone, a pattern limits the
    choice. ``sustained_cpu`` None lets burstable types in at their full cost, False only within their baseline.
    ``spot`` is the capacity type of this try.
    """

    instance_type: str = ""
    arch: str = DEFAULT_ARCH
    dedicated_cpu: bool = False
    sustained_cpu: bool | None = None
    gpus: int = 0
    gpu_name: str = ""
    spot: bool = False
    zone: str = ""
    private_ip_only: bool = False

    @property
    def named(self) -> str:
        """The one instance type that is asked for; empty when there is a choice."""
        return "" if _GLOB & set(self.instance_type) else self.instance_type


@dataclass(frozen=True, slots=True)
class Request:
    """``cpu`` in cores, ``memory_mib`` rounded up. 0: any."""

    policy: Policy = Policy()
    cpu: float = 0.0
    memory_mib: int = 0


def request_of(spec: PodSpec, default_instance_type: str = "", *, spot: bool = False) -> Request:
    """What a pod asks. A pod that says nothing of its instance gets the default type.

    Raises:
        QuantityError: a quantity that validation would have refused.
    """
    return _request(
        spec.instance_type.lower(),
        spec.resources,
        spec.placement.availability_zone,
        default_instance_type.lower(),
        spot,
    )


@lru_cache(maxsize=4096)
def _request(instance_type: str, asked: ResourceSpec, zone: str, default: str, spot: bool) -> Request:
    chosen = instance_type or ("" if describes_instance(asked) else default)
    policy = Policy(
        instance_type=chosen,
        arch=asked.arch or DEFAULT_ARCH,
        dedicated_cpu=asked.dedicated_cpu,
        sustained_cpu=asked.sustained_cpu,
        gpus=quantity.to_count(asked.gpu),
        gpu_name=asked.gpu_name,
        spot=spot,
        zone=zone,
        private_ip_only=asked.private_ip_only,
    )
    if policy.named:  # It wins over sizes; what is left are its mode and where it runs.
        policy = Policy(
            chosen, sustained_cpu=asked.sustained_cpu, spot=spot, zone=zone, private_ip_only=asked.private_ip_only
        )
        return Request(policy)
    return Request(policy, quantity.to_cores(asked.cpu), -(-quantity.to_bytes(asked.memory) // MIB))


def describes_instance(asked: ResourceSpec) -> bool:
    """Whether the resources say anything by which an instance type can be chosen."""
    return bool(asked.cpu or asked.memory or asked.gpu or asked.gpu_name or asked.arch or asked.dedicated_cpu)
