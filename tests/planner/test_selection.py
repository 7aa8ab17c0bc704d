"""The batch choice equals a plain loop over the catalogue for every request, ties and rounding included."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.catalog import load_catalog
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.eligibility import reasons
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.request import Policy, Request
from milpa_ray.planner.selection import FEW, Selected, Selector
from tests.planner.catalogues import ZONES, make_catalogue, row
from tests.planner.oracle import Loop

REAL = load_catalog("us-east-1")


def same(catalogue: Catalogue, requests: Sequence[Request], full: Full = NOTHING_FULL) -> None:
    """Batch, single and explained choice equal the loop's, to the last bit of the cost."""
    selector, loop = Selector(catalogue), Loop(catalogue)
    batch = selector.select_requests([*requests, *requests[:1] * FEW], full)
    for request, found in zip(requests, batch, strict=False):
        expected = Selected(*loop.choose(request, full))
        assert found == expected, request
        assert selector.select_one(request, full) == expected, request
        verdicts = reasons(catalogue, request, full)
        assert verdicts.order[:1].tolist() == ([expected.row] if expected.row >= 0 else []), request
        assert (verdicts.reason < 0).sum() == len(verdicts.order)
        if expected.row >= 0:
            assert verdicts.cost[expected.row] == expected.cost
            assert verdicts.surcharge[expected.row] == expected.surcharge


def around(values: Sequence[float]) -> list[float]:
    """The values and their neighbours among the floating-point numbers."""
    return sorted({x for v in values for x in (math.nextafter(v, -math.inf), v, math.nextafter(v, math.inf)) if x >= 0})


# Few values, so that sizes, prices and whole cost lines coincide often: 0.1 + 0.05 * (1 - 0.5) is 0.125.
CPUS = (0.5, 1.0, 2.0, 4.0)
BASELINES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0)
PRICES = (0.1, 0.105, 0.11, 0.125, 0.15, 0.2, 0.3, math.nan, 0.0)
SURCHARGES = (0.0, 0.04, 0.05, 0.1)
MEMORIES = (512, 1024, 4096)

TYPES = st.fixed_dictionaries(
    {
        "name": st.builds("{}.{}".format, st.sampled_from(("a1", "b2", "c5", "m1", "c5-flex")), st.sampled_from("xyz")),
        "generation": st.sampled_from((1, 2)),
        "vcpus": st.sampled_from(CPUS),
        "memory_mib": st.sampled_from(MEMORIES),
        "gpu_count": st.sampled_from((0, 0, 1, 4)),
        "gpu_name": st.sampled_from(("", "NVIDIA T4")),
        "arch": st.sampled_from(("amd64", "amd64", "amd64", "arm64")),
        "burstable": st.booleans(),
        "flex": st.booleans(),
        "baseline": st.sampled_from(BASELINES),
        "surcharge": st.sampled_from(SURCHARGES),
        "bare_metal": st.sampled_from((False, False, False, True)),
        "price": st.sampled_from(PRICES),
        "spot": st.tuples(*[st.sampled_from(PRICES)] * len(ZONES)),
        "offered": st.tuples(*[st.booleans()] * len(ZONES)),
    }
).map(lambda values: row(**values))
CATALOGUES = st.builds(
    make_catalogue,
    st.lists(TYPES, min_size=1, max_size=14, unique_by=lambda values: values["name"]),
    st.sampled_from((ZONES, ZONES, ZONES[:1], ())),
)
CROSSINGS = [b + (p - q) / s for b in BASELINES for p in PRICES[:7] for q in PRICES[:7] for s in SURCHARGES[1:]]
POLICIES = st.builds(
    Policy,
    instance_type=st.sampled_from(("", "", "", "c5*", "a1.x", "?2.*", "*metal*", "none.*")),
    arch=st.sampled_from(("amd64", "amd64", "arm64")),
    dedicated_cpu=st.sampled_from((False, False, True)),
    sustained_cpu=st.sampled_from((None, None, False, True)),
    gpus=st.sampled_from((0, 0, 0, 1, 2)),
    gpu_name=st.sampled_from(("", "", "", "T4", "NVIDIA T4", "V100")),
    spot=st.booleans(),
    zone=st.sampled_from(("", "", ZONES[0], ZONES[2], "elsewhere")),
    private_ip_only=st.booleans(),
)
REQUESTS = st.builds(
    Request,
    POLICIES,
    st.one_of(
        st.sampled_from((0.0, *around([*CPUS, *BASELINES]), 5.0)),
        st.sampled_from(around([x for x in CROSSINGS if 0 <= x <= 5])),
        st.floats(0, 5),
    ),
    st.sampled_from((0, 1, 511, 512, 513, 1024, 1025, 4096, 4097)),
)
FULLS = st.builds(
    Full,
    st.frozensets(st.tuples(st.booleans(), st.sampled_from(("a1.x", "c5.y", "gone.x")), st.sampled_from(ZONES))),
    st.frozensets(st.tuples(st.booleans(), st.sampled_from(("a1", "b2"))), max_size=1),
    st.sampled_from((False, False, False, True)),
    st.frozensets(st.tuples(st.booleans(), st.sampled_from(ZONES)), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(CATALOGUES, st.lists(REQUESTS, min_size=1, max_size=25), FULLS)
def test_every_choice_equals_the_loop(catalogue: Catalogue, requests: list[Request], full: Full) -> None:
    same(catalogue, requests, full)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_burstable_types_whose_costs_cross(data: st.DataObject) -> None:
    """All types burstable or plain, of one size class: many lines that touch, cross or are one, and where they do."""
    count = data.draw(st.integers(2, 8))
    rows: list[dict[str, Any]] = []
    for number in range(count):
        baseline, surcharge = data.draw(st.sampled_from(BASELINES)), data.draw(st.sampled_from(SURCHARGES))
        at_zero = data.draw(st.sampled_from((0.05, 0.1, 0.12)))
        price = at_zero + surcharge * baseline  # Equal but for rounding: the lines of several types are one.
        rows.append(
            row(
                f"t{number}.x",
                burstable=data.draw(st.sampled_from((True, True, True, False))),
                vcpus=data.draw(st.sampled_from((2.0, 4.0))),
                memory_mib=data.draw(st.sampled_from((512, 1024))),
                baseline=baseline,
                surcharge=surcharge,
                price=price,
            )
        )
    prices = [values["price"] for values in rows]
    touching = [
        a["baseline"] + (p - a["price"]) / a["surcharge"] for a in rows if a["surcharge"] for p in prices if p > 0
    ]
    cpus = [x for x in around([x for x in touching if 0 <= x <= 4]) if x <= 4]
    asked = data.draw(st.lists(st.one_of(st.sampled_from([0.0, *cpus]), st.floats(0, 4)), min_size=1, max_size=40))
    same(make_catalogue(rows), [Request(Policy(), cpu, memory) for cpu in asked for memory in (0, 600)])


@pytest.mark.parametrize("region", ["us-east-1", "eu-north-1", "us-gov-west-1"])
def test_the_real_catalogue_at_the_edges_of_its_cells(region: str) -> None:
    catalogue = load_catalog(region)
    rng = np.random.default_rng(7)
    edges = around([*np.unique(catalogue.vcpus).tolist(), *np.unique(catalogue.baseline).tolist(), 0.0])
    memories = np.unique(catalogue.memory_mib)
    sizes = [0, *memories.tolist(), *(memories + 1).tolist()]
    policies = [
        Policy(),
        Policy(sustained_cpu=False),
        Policy(sustained_cpu=True, arch="arm64"),
        Policy(dedicated_cpu=True, spot=True),
        Policy(gpus=1),
        Policy(gpu_name="T4", gpus=2),
        Policy(instance_type="t*", zone=catalogue.zones[0] if catalogue.zones else "", spot=True),
        Policy(instance_type="m5.large"),
    ]
    requests = []
    for policy in policies:
        for _ in range(40):
            small = rng.random() < 0.5
            cpu = rng.choice(edges) if small else rng.uniform(0, 10)
            requests.append(Request(policy, float(cpu), int(rng.choice(sizes[:24] if small else sizes))))
    same(catalogue, requests)


def test_a_large_batch_in_any_order_equals_single_requests() -> None:
    selector, rng = Selector(REAL), np.random.default_rng(3)
    policies = (Policy(), Policy(arch="arm64"), Policy(sustained_cpu=False), Policy(spot=True), Policy(gpus=1))
    count = 70_000
    policy = rng.integers(0, len(policies), count)
    cpu, memory = rng.uniform(0, 4, count), rng.integers(0, 20_000, count)
    found = selector.select(policies, policy, cpu, memory)
    for i in rng.integers(0, count, 300).tolist():
        one = selector.select_one(Request(policies[policy[i]], float(cpu[i]), int(memory[i])))
        assert Selected(int(found.row[i]), float(found.cost[i]), float(found.surcharge[i])) == one


def test_an_empty_batch_has_an_empty_answer() -> None:
    empty = np.empty(0)
    found = Selector(REAL).select((), empty.astype(np.int64), empty, empty.astype(np.int64))
    assert (len(found.row), len(found.cost), len(found.surcharge)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("policy", "cpu", "memory_mib", "name", "cost"),
    [
        # The manual's examples at today's prices: by its baseline, and the cheapest dedicated CPU.
        (Policy(), 0.1, 0, "t3a.nano", 0.0047),
        (Policy(dedicated_cpu=True), 2, 2048, "c6a.large", 0.0765),
        (Policy(sustained_cpu=False), 0.1, 0, "t3a.nano", 0.0047),
        (Policy(), 0.2, 0, "t3a.micro", 0.0094),  # t3a.nano with surcharge would be 0.0047 + 0.05 * 0.1 = 0.0097
        (Policy(), 0.15, 0, "t3a.nano", 0.0047 + 0.05 * (0.15 - 0.1)),
        (Policy(sustained_cpu=False), 0.15, 0, "t3a.micro", 0.0094),
        (Policy(arch="arm64"), 0.1, 0, "t4g.nano", 0.0042),
        (Policy(gpus=1), 0, 0, "g4dn.xlarge", 0.526),
        (Policy(gpus=8, gpu_name="nvidia-a100"), 0, 0, "p4d.24xlarge", 21.957642),
        (Policy(instance_type="c5*"), 3, 1024, "c5a.xlarge", 0.154),
        (Policy(instance_type="c5.large"), 8, 1 << 20, "c5.large", 0.085),
        (Policy(), 0, 1 << 26, None, math.inf),
    ],
)
def test_known_answers(policy: Policy, cpu: float, memory_mib: int, name: str | None, cost: float) -> None:
    found = Selector(REAL).select_one(Request(policy, cpu, memory_mib))
    assert (REAL.names[found.row] if found.row >= 0 else None) == name
    assert found.cost == pytest.approx(cost, rel=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"price": 0.1}, {"price": 0.2, "generation": 9, "memory_mib": 9999}),
        ({"generation": 6}, {"generation": 5, "memory_mib": 9999}),
        ({"memory_mib": 8192}, {"memory_mib": 4096}),
        ({}, {}),
    ],
)
def test_ties_go_to_price_then_generation_then_memory_then_name(first: dict[str, Any], second: dict[str, Any]) -> None:
    named = {"a.x": first, "b.x": second} if first == second else {"b.x": first, "a.x": second}
    catalogue = make_catalogue([row(name, **values) for name, values in named.items()])
    assert catalogue.names[Selector(catalogue).select_one(Request()).row] == next(iter(named))


def test_a_rising_cost_that_ties_loses_to_the_lower_price() -> None:
    """0.1 + 0.05 * (3 - 1) is 0.2: the burstable type has the lower price."""
    burstable = row("b.x", burstable=True, vcpus=4.0, baseline=1.0, surcharge=0.05, price=0.1, generation=1)
    catalogue = make_catalogue([burstable, row("a.x", vcpus=4.0, price=0.2, generation=9)])
    assert catalogue.names[Selector(catalogue).select_one(Request(cpu=3.0)).row] == "b.x"
    assert catalogue.names[Selector(catalogue).select_one(Request(cpu=math.nextafter(3.0, 4.0))).row] == "a.x"
