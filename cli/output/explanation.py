"""The text of ``explain``: what was asked, what is chosen at which cost, what else would fit, why the rest is out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.output.objects import Document
from cli.output.text import Row, one_line, table
from cli.subjects import Subject, in_flags

if TYPE_CHECKING:
    from milpa_ray.planner.eligibility import Constraint
    from milpa_ray.planner.explain import Cost, Explanation, TypeVerdict
    from milpa_ray.planner.request import Request

NEXT = 5
"""Fitting types that are shown after the chosen one."""
EXAMPLES = 3
"""Types that are named for each reason."""
INDENT = "  "


@dataclass(frozen=True, slots=True)
class Explained:
    """A subject, its explanation, and the prices that it was made with: of which region and day, and from where.
    ``file`` is empty for the prices that are shipped; ``remedy`` says what helps when they are ``old``."""

    subject: Subject
    explanation: "Explanation"
    region: str
    prices_as_of: str
    prices_from: str
    file: str = ""
    age_days: int = 0
    old: bool = False
    remedy: str = ""

    def said(self, text: str) -> str:
        """``text`` with a remedy, in the words of who asked: of flags, or of manifests."""
        return text if self.subject.label else in_flags(text)


def explanation_text(item: Explained, *, wide: bool) -> str:
    """All that people want to know; ``wide`` lists every instance type instead of counting them by reason."""
    found = item.explanation
    blocks = [_summary(item)]
    if found.chosen:
        blocks.append(_costs(found, item.subject.pods))
    if wide:
        blocks.append(_titled("All instance types", _every(found)))
    else:
        blocks += [_titled("Next best", _next(found)), _titled("Not chosen", _counted(found))]
    return "\n".join([*(block for block in blocks if block), _prices(item)])


def money(usd: float) -> str:
    """Dollars with as many decimals as prices of instances need."""
    text = f"{usd:,.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals:0<4}"


def _titled(title: str, rows: Sequence[Row]) -> str:
    if len(rows) < 2:
        return ""
    return f"{title}:\n" + "".join(f"{INDENT}{line}\n" for line in table(rows).splitlines())


# ---------------------------------------------------------------- what was asked, and what comes of it


def _summary(item: Explained) -> str:
    found, subject = item.explanation, item.subject
    lines = [("Object", subject.label)] if subject.label else []
    if subject.status is not None:
        lines.append(("Now", _now(subject)))
    lines.append(("Asked", asked(found)))
    if found.ignored:
        lines.append(("Ignored", f"since instanceType is exact: {', '.join(found.ignored)}"))
    if found.no_spot is not None:
        lines.append(("Spot", f"{item.said(found.no_spot.message)}; on demand instead, as spot is only preferred"))
    if found.refusal is not None:
        lines += [("Chosen", "nothing"), ("Reason", f"{found.refusal.reason}: {item.said(found.refusal.message)}")]
    if found.chosen and found.request:
        lines += _chosen(found.chosen, found.request, item.region)
    return "".join(f"{label + ':':<14}{one_line(text)}\n" for label, text in lines)


def _now(subject: Subject) -> str:
    """What a stored pod has at this moment."""
    status, node = subject.status or {}, subject.node
    text = str(status.get("phase") or "Waiting")
    if node is not None:
        return f"{text} on {launched(node)}"
    why = ": ".join(part for part in (status.get("reason", ""), status.get("message", "")) if part)
    return text + (f" ({why})" if why else "")


def launched(node: Document) -> str:
    """Type, zone, market and price of a node, as in ``c5.large in us-east-1a, spot, at $0.0350 per hour ...``."""
    spec, price = node.get("spec", {}), node.get("status", {}).get("priceUSDHour")
    zone = spec.get("placement", {}).get("availabilityZone") or "an unknown zone"
    text = f"{spec.get('instanceType')} in {zone}, {'spot' if spec.get('spot') else 'on demand'}"
    return text + (f", at {money(price)} per hour since its launch" if price else "")


def asked(found: "Explanation") -> str:
    """The request in words."""
    request = found.request
    if request is None:
        return "nothing"
    policy = request.policy
    fits_any = not (request.cpu or request.memory_mib or policy.instance_type or policy.gpus or policy.gpu_name)
    given = [
        "nothing of the instance, so" if found.by_default else "",
        "any size" if fits_any else "",
        f"type {policy.instance_type}" if policy.instance_type else "",
        f"{request.cpu:.10g} CPU" if request.cpu else "",
        f"{_gib(request.memory_mib)} memory" if request.memory_mib else "",
        _gpus_asked(policy.gpus, policy.gpu_name),
        "dedicated CPU" if policy.dedicated_cpu else "",
        {True: "sustained CPU", False: "CPU within the baseline", None: ""}[policy.sustained_cpu],
        policy.arch if not policy.named else "",
        f"{found.volume_gib} GiB root volume",
        "no public address" if policy.private_ip_only else "",
        f"zone {policy.zone}" if policy.zone else "",
        "spot" if policy.spot else "on demand",
    ]
    return ", ".join(part for part in given if part).replace("so, ", "so ")


def _gpus_asked(count: int, name: str) -> str:
    if not count and not name:
        return ""
    return " ".join(part for part in (str(count) if count else "", name, "GPU" if count < 2 else "GPUs") if part)


def _chosen(best: "TypeVerdict", request: "Request", region: str) -> list[tuple[str, str]]:
    lines = [("Chosen", f"{best.name} ({size(best)})")]
    if request.policy.spot:
        saved = 1 - (best.price or 0.0) / best.price_on_demand
        lines.append(("Capacity", f"spot, {saved:.0%} below {money(best.price_on_demand)} on demand"))
    else:
        lines.append(("Capacity", "on demand"))
    zones = ", ".join(zone for zone in best.zones if zone)
    lines.append(("Zones", zones or f"unknown which zones of {region} have it"))
    if best.credits:
        base = f"its CPU baseline is {best.baseline:.10g} of {best.vcpus:.10g} cores"
        more = "more is paid for" if best.credits == "unlimited" else "more only for a while, from credits"
        lines.append(("CPU credits", f"{best.credits}: {base}, {more}"))
    return lines


def size(found: "TypeVerdict") -> str:
    """As in ``2 vCPU, 4 GiB``, with GPUs if there are."""
    parts = [f"{found.vcpus:.10g} vCPU", _gib(found.memory_mib), *([_gpus(found)] if found.gpu_name else [])]
    return ", ".join(parts)


def _gib(mib: int) -> str:
    return f"{mib / 1024:.10g} GiB"


def _gpus(found: "TypeVerdict") -> str:
    return f"{found.gpus} {found.gpu_name}" if found.gpus else f"part of {found.gpu_name}" if found.gpu_name else "-"


# ---------------------------------------------------------------- costs


def _costs(found: "Explanation", pods: int) -> str:
    from milpa_ray.planner.explain import (
        HOURS_PER_MONTH,
        VOLUME_PRICE_REGION,
        VOLUME_TYPE,
        VOLUME_USD_PER_GIB_MONTH,
    )

    best, request = found.chosen, found.request
    if best is None or best.cost is None or request is None:
        return ""
    cost = best.cost
    above = max(0.0, request.cpu - best.baseline) if cost.surcharge else 0.0
    rate = f" at {money(cost.surcharge / above)} per core-hour" if above else ""
    volume = f"{found.volume_gib} GiB {VOLUME_TYPE} at {money(VOLUME_USD_PER_GIB_MONTH)} per GiB-month"
    rows: list[Row] = [["COST", "PER HOUR", "PER MONTH", ""], _cost_row(best.name, cost.instance)]
    if best.credits:
        rows.append(_cost_row("CPU above baseline", cost.surcharge, f"{above:.10g} cores{rate}" if above else ""))
    rows.append(_cost_row("root volume", cost.volume, f"{volume} ({VOLUME_PRICE_REGION}'s price)"))
    if cost.public_ipv4:
        rows.append(_cost_row("public IPv4", cost.public_ipv4, "an address; privateIPOnly does without"))
    rows.append(_cost_row("total", cost.total, f"a month has {HOURS_PER_MONTH} hours"))
    if pods != 1:
        rows.append(_cost_row(f"{pods} replicas", cost.total * pods))
    return table(rows)


def _cost_row(label: str, usd_hour: float, remark: str = "") -> Row:
    from milpa_ray.planner.explain import HOURS_PER_MONTH

    return [label, money(usd_hour), f"${usd_hour * HOURS_PER_MONTH:,.2f}", remark]


# ---------------------------------------------------------------- the others


def _next(found: "Explanation") -> list[Row]:
    rows: list[Row] = [["TYPE", "VCPU", "MEMORY", "GPU", "CPU CREDITS", "PER HOUR", "MORE", "ZONES"]]
    best = found.chosen
    for other in found.fitting[1 : NEXT + 1]:
        cost = other.cost
        if best is None or best.cost is None or cost is None:
            continue
        more = f"+{cost.total / best.cost.total - 1:.1%}"
        rows.append([*_facts(other), other.credits or "-", money(cost.total), more, _zones(other)])
    return rows


def _facts(found: "TypeVerdict") -> list[str]:
    return [found.name, f"{found.vcpus:.10g}", _gib(found.memory_mib), _gpus(found)]


def _zones(found: "TypeVerdict") -> str:
    return str(len(found.zones)) if all(found.zones) else "?"


def _counted(found: "Explanation") -> list[Row]:
    """How many types each reason rules out; a type with several counts where the first of them does."""
    from milpa_ray.planner.shortfall import GROUPS

    rows: list[Row] = [["TYPES", "REASON", "SUCH AS"]]
    dearer = found.fitting[NEXT + 1 :] if found.chosen else found.fitting
    if dearer:
        why = "fits, but costs more" if found.chosen else "fits, but is not tried now"
        rows.append([str(len(dearer)), why, _named(dearer)])
    groups: dict[Constraint, list[TypeVerdict]] = defaultdict(list)
    for other in found.out:
        groups[other.shortfalls[0].constraint].append(other)
    for constraint, members in sorted(groups.items()):
        rows.append([str(len(members)), GROUPS[constraint], _named(_nearest_first(constraint, members))])
    return rows


def _nearest_first(constraint: "Constraint", members: Iterable["TypeVerdict"]) -> list["TypeVerdict"]:
    """Those with the fewest other shortfalls, of these the largest or else the cheapest."""

    def distance(found: "TypeVerdict") -> tuple[int, float, float]:
        amounts = {
            "MEMORY": found.memory_mib,
            "CPU": found.vcpus,
            "BASELINE": found.baseline,
            "GPU": found.gpus,
        }
        price = found.price if found.price is not None else found.price_on_demand
        return len(found.shortfalls), -amounts.get(constraint.name, 0.0), price

    return sorted(members, key=distance)


def _named(members: Sequence["TypeVerdict"]) -> str:
    more = ", ..." if len(members) > EXAMPLES else ""
    return ", ".join(found.name for found in members[:EXAMPLES]) + more


def _every(found: "Explanation") -> list[Row]:
    rows: list[Row] = [["TYPE", "VCPU", "MEMORY", "GPU", "ARCH", "PRICE", "RESULT"]]
    cheapest: Cost | None = found.chosen.cost if found.chosen else None
    for other in (*found.fitting, *found.out):
        price = "-" if other.price is None else money(other.price)
        rows.append([*_facts(other), other.arch, price, _result(other, cheapest)])
    return rows


def _result(found: "TypeVerdict", cheapest: "Cost | None") -> str:
    if found.cost is None or cheapest is None:
        return "; ".join(reason.message for reason in found.shortfalls)
    if found.cost is cheapest:
        return f"chosen: {money(found.cost.total)} with all"
    return f"fits, but costs {money(found.cost.total)} with all"


def _prices(item: Explained) -> str:
    origin = f"refreshed, {item.file}" if item.file else "as shipped"
    request = item.explanation.request
    spot = " Shipped spot prices are estimates." if request and request.policy.spot and not item.file else ""
    remedy = f": they may have changed{item.remedy and '; ' + item.remedy}" if item.old else ""
    age = f"{'Warning: p' if item.old else 'P'}rices of {item.region}, {item.prices_as_of} ({origin})"
    return f"{age}, {item.age_days} days old{remedy}.{spot}\n"
