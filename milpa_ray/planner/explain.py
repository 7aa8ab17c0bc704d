"""The choice for one pod with its reasons: what each fitting type costs in all, and why each of the others is out.

For people who ask; controllers choose by ``selection``, which a test holds to the same answers. The root volume and
the public address are counted in the costs here and never in the ranking: they cost the same whatever the type.
"""

from dataclasses import dataclass, replace

from milpa_ray.api.pod import PodSpec, ResourceSpec
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.choose import NO_DEFAULT, Decision, Offers, decide
from milpa_ray.planner.eligibility import Constraint, Verdicts, reasons
from milpa_ray.planner.refusal import Refusal
from milpa_ray.planner.request import Request
from milpa_ray.planner.shortfall import shortfall
from milpa_ray.planner.volumes import gib

HOURS_PER_MONTH = 730
"""365 days of 24 hours in 12 months: how AWS' own calculator makes a month of an hourly price."""
VOLUME_TYPE = "gp3"
VOLUME_USD_PER_GIB_MONTH = 0.08
"""US dollars per GiB-month of a gp3 volume with its included 3,000 IOPS and 125 MiB/s, in us-east-1: "$0.08 per
GB-month of General Purpose (gp3) provisioned storage - US East (N. Virginia)" in AWS' price list of AmazonEC2, as on
https://aws.amazon.com/ebs/pricing/. It is up to about twice that elsewhere; the catalogue has no prices of volumes."""
VOLUME_PRICE_REGION = "us-east-1"
PUBLIC_IPV4_USD_PER_HOUR = 0.005
"""US dollars per hour of a public IPv4 address, the same in every region: AWS charges it since 1 February 2024, "New -
AWS Public IPv4 Address Charge" on https://aws.amazon.com/blogs/aws/ and https://aws.amazon.com/vpc/pricing/."""


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars per hour: of the instance, of CPU above the baseline, of the root volume, of the public address."""

    instance: float
    surcharge: float
    volume: float
    public_ipv4: float

    @property
    def total(self) -> float:
        return self.instance + self.surcharge + self.volume + self.public_ipv4

    @property
    def month(self) -> float:
        """US dollars per month of the whole."""
        return self.total * HOURS_PER_MONTH


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One reason why a type is out."""

    constraint: Constraint
    message: str


@dataclass(frozen=True, slots=True)
class TypeVerdict:
    """One instance type and what became of it. It fits when it has no ``shortfalls``.

    ``baseline`` in cores; prices in US dollars per hour, ``price`` that of the asked capacity type, None where it
    cannot be had. ``zones`` have it at that price; it is one empty name where nobody knows the region's zones.
    ``credits`` as in ``Choice``. ``cost`` is None for types that are out.
    """

    name: str
    vcpus: float
    memory_mib: int
    gpus: int
    gpu_name: str
    arch: str
    baseline: float
    shared_cpu: bool
    price_on_demand: float
    price: float | None
    zones: tuple[str, ...]
    credits: str
    cost: Cost | None
    shortfalls: tuple[Shortfall, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.shortfalls


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a pod gets what it gets.

    ``request`` is the one that counts, None when the pod asks for nothing. ``fitting`` are the types that fit it,
    cheapest first; ``out`` the others, by name. ``refusal`` says why it gets nothing, though some may fit; ``no_spot``
    why spot, which was preferred, is not taken. ``by_default``: the pod says nothing of its instance, and gets the
    default type.
    ``ignored``: fields of the pod's resources that count for nothing, since it names its instance type.
    """

    request: Request | None
    volume_gib: int
    fitting: tuple[TypeVerdict, ...] = ()
    out: tuple[TypeVerdict, ...] = ()
    refusal: Refusal | None = None
    no_spot: Refusal | None = None
    by_default: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def chosen(self) -> TypeVerdict | None:
        return self.fitting[0] if self.fitting and self.refusal is None else None


def explain(spec: PodSpec, offers: Offers, default_volume_size: str = "") -> Explanation:
    """The choice for a pod of this spec with its reasons. ``default_volume_size`` is a quantity.

    Raises:
        QuantityError: a quantity that validation would have refused.
    """
    volume = root_volume_gib(spec.resources, default_volume_size)
    decision = decide(spec, offers)
    if decision is None:
        return Explanation(None, volume, refusal=NO_DEFAULT)
    answer = _answer(decision, offers, volume, by_default=not _asks(spec, decision.taken.request))
    named = answer.request is not None and bool(answer.request.policy.named)
    return replace(answer, ignored=_ignored(spec.resources)) if named else answer


def root_volume_gib(asked: ResourceSpec, default_size: str = "") -> int:
    """Size of the root volume: as asked, never smaller than the default."""
    return max(gib(asked.volume_size), gib(default_size))


def _ignored(asked: ResourceSpec) -> tuple[str, ...]:
    """Fields that are given and yield to an instance type's name, as they are called in manifests."""
    yielding = {
        "cpu": asked.cpu,
        "memory": asked.memory,
        "gpu": asked.gpu,
        "gpuName": asked.gpu_name,
        "arch": asked.arch,
        "dedicatedCPU": asked.dedicated_cpu,
    }
    return tuple(field for field, value in yielding.items() if value)


def _asks(spec: PodSpec, request: Request) -> bool:
    """Whether the request says what the pod says, and not what the default says."""
    return bool(spec.instance_type) or not request.policy.instance_type


def _answer(decision: Decision, offers: Offers, volume: int, *, by_default: bool) -> Explanation:
    catalogue, request = offers.catalogue, decision.taken.request
    verdicts = reasons(catalogue, request, offers.full)
    disk = volume * VOLUME_USD_PER_GIB_MONTH / HOURS_PER_MONTH
    fitting = [_verdict(catalogue, request, verdicts, row, disk) for row in verdicts.order.tolist()]
    out = [
        _verdict(catalogue, request, verdicts, row, disk)
        for row, reason in enumerate(verdicts.reason.tolist())
        if reason >= 0
    ]
    refusal, no_spot = decision.taken.refusal, decision.no_spot
    return Explanation(request, volume, tuple(fitting), tuple(out), refusal, no_spot, by_default)


def _verdict(catalogue: Catalogue, request: Request, verdicts: Verdicts, row: int, disk: float) -> TypeVerdict:
    zones = tuple(name for name, there in zip(verdicts.zone_names, verdicts.zones[row].tolist(), strict=True) if there)
    price = float(verdicts.price[row])
    address = 0.0 if request.policy.private_ip_only else PUBLIC_IPV4_USD_PER_HOUR
    credit_mode = ("unlimited" if verdicts.unlimited[row] else "standard") if catalogue.burstable[row] else ""
    return TypeVerdict(
        name=catalogue.names[row],
        vcpus=float(catalogue.vcpus[row]),
        memory_mib=int(catalogue.memory_mib[row]),
        gpus=int(catalogue.gpu_count[row]),
        gpu_name=str(catalogue.gpu_name[row]),
        arch=str(catalogue.arch[row]),
        baseline=float(catalogue.baseline[row]),
        shared_cpu=bool(catalogue.burstable[row] or catalogue.flex[row]),
        price_on_demand=float(catalogue.price_on_demand[row]),
        price=price if zones else None,
        zones=zones,
        credits=credit_mode,
        cost=Cost(price, float(verdicts.surcharge[row]), disk, address) if verdicts.reason[row] < 0 else None,
        shortfalls=tuple(
            Shortfall(Constraint(failed), shortfall(catalogue, request, row, Constraint(failed)))
            for failed in verdicts.failed[row].nonzero()[0].tolist()
        ),
    )
