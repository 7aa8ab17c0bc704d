"""The cheapest instance type for each of many requests, exactly: as if each had been compared with the whole catalogue.

What a type costs depends on the asked CPU only between the baseline and the vCPUs of a burstable type, where it rises
in a straight line. So the sizes that types have cut the plane of (cpu, memory) into cells. In most cells one type is
the cheapest for every request; it stands in a table. In the others a few candidates are left, whose costs are compared
request by request with the formula of ``eligibility``. A type is left out of a cell only when another one is better at
every point of it, rounding included: costs rise with cpu also in floating point, and two rising lines are told apart
only when they are further apart than rounding can be. Ties: lower price, newer generation, more memory, name.

Tables are made once per policy and state of capacity, and kept. Knows nothing of pods; ``choose`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from milpa_ray.planner.axis import Axis
from milpa_ray.planner.catalogue import Catalogue, Flags, Floats, Ints
from milpa_ray.planner.eligibility import Terms, terms, tie_rank
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.request import Policy, Request

Rows = NDArray[np.int32]

NONE = -1
"""Row of a request that nothing fits."""
CHUNK = 1 << 15
"""Requests worked on at a time: their intermediate columns stay in the processor's cache."""
TABLES_KEPT = 128
"""Policies whose tables are kept, some 200 KB each for the largest region."""
STACKS_KEPT = 8
FEW = 16
"""Up to so many requests are answered faster one by one."""
_ROUNDING = 1e-14
"""Relative error of a cost, far above what its three roundings can make (3 x 2^-53)."""
_NO_RANK = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class Selected:
    """The choice for one request. ``row`` is the catalogue's, or ``NONE``; ``cost`` in US dollars per hour (inf for
    none), of which ``surcharge`` is for CPU above the baseline."""

    row: int
    cost: float
    surcharge: float


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """The choices for a batch, in its order; columns as in ``Selected``."""

    row: Rows
    cost: Floats
    surcharge: Floats


@dataclass(frozen=True, eq=False, slots=True)
class _Table:
    """Answers per cell. ``code`` >= 0 is the row that wins at ``price`` in the whole cell; -1: nothing fits; -2 - l:
    the candidates ``rows[l]`` (best in a tie first, padded with ``NONE`` at price inf), with the terms beside them."""

    code: Rows
    price: Floats
    rows: Rows
    prices: Floats
    surcharges: Floats
    baselines: Floats


@dataclass(frozen=True, eq=False, slots=True)
class _Answers:
    """A policy's table and the terms that it was made of."""

    table: _Table
    of: Terms


class Selector:
    """Chooses from one catalogue. Safe to share: what it keeps are results."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        baselines = catalogue.baseline[catalogue.burstable]
        self._cpu = Axis(np.unique(np.concatenate((catalogue.vcpus, baselines))))
        self._memory = Axis(np.unique(catalogue.memory_mib).astype(np.float64))
        self._width = len(self._memory) + 1
        self._cells = (len(self._cpu) + 1) * self._width
        self._ties = tie_rank(catalogue)
        self._answers = lru_cache(maxsize=TABLES_KEPT)(self._build)
        self._stack = lru_cache(maxsize=STACKS_KEPT)(self._build_stack)

    def select_one(self, request: Request, full: Full = NOTHING_FULL) -> Selected:
        """The cheapest type for one request."""
        table = self._for(request.policy, full).table
        cell = self._cpu.place(request.cpu) * self._width + self._memory.place(request.memory_mib)
        code = table.code.item(cell)
        if code >= NONE:
            return Selected(code, table.price.item(cell), 0.0)
        best = Selected(NONE, np.inf, 0.0)
        for place, row in enumerate(table.rows[-2 - code].tolist()):
            at = -2 - code, place
            surcharge = table.surcharges.item(at) * max(0.0, request.cpu - table.baselines.item(at))
            cost = table.prices.item(at) + surcharge
            if cost < best.cost:
                best = Selected(row, cost, surcharge)
        return best

    def select(
        self, policies: Sequence[Policy], policy: Ints, cpu: Floats, memory_mib: Ints, full: Full = NOTHING_FULL
    ) -> Selection:
        """The cheapest type for each request: its policy is ``policies[policy[i]]``. ``cpu`` must not be NaN."""
        count = len(cpu)
        table = self._stack(tuple(policies), full)
        answer = Selection(np.empty(count, np.int32), np.empty(count), np.zeros(count))
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            cell = self._cpu.places(np.ascontiguousarray(cpu[part], dtype=np.float64))
            cell *= self._width
            cell += self._memory.places(np.ascontiguousarray(memory_mib[part], dtype=np.float64))
            if len(policies) > 1:
                cell += policy[part] * self._cells
            code = table.code.take(cell)
            answer.row[part] = code
            answer.cost[part] = table.price.take(cell)
            mixed = np.flatnonzero(code < NONE)
            if mixed.size:
                _compare(table, -2 - code[mixed], cpu[part][mixed], mixed + start, answer)
        return answer

    def select_requests(self, requests: Sequence[Request], full: Full = NOTHING_FULL) -> list[Selected]:
        """``select`` for requests that are objects."""
        if len(requests) <= FEW:
            return [self.select_one(request, full) for request in requests]
        policies: dict[Policy, int] = {}
        policy = np.array([policies.setdefault(request.policy, len(policies)) for request in requests])
        cpu = np.array([request.cpu for request in requests])
        memory = np.array([request.memory_mib for request in requests])
        found = self.select(tuple(policies), policy, cpu, memory, full)
        columns = (found.row.tolist(), found.cost.tolist(), found.surcharge.tolist())
        return [Selected(*values) for values in zip(*columns, strict=True)]

    def zones(self, policy: Policy, row: int, full: Full = NOTHING_FULL) -> tuple[str, ...]:
        """Zones in which requests of this policy get the type at its price."""
        of = self._for(policy, full).of
        return tuple(name for name, there in zip(of.zone_names, of.zones[row].tolist(), strict=True) if there)

    def price(self, policy: Policy, row: int, full: Full = NOTHING_FULL) -> float:
        """US dollars per hour, without surcharge, at which requests of this policy get the type."""
        return float(self._for(policy, full).of.price[row])

    # ------------------------------------------------------------ tables

    def _for(self, policy: Policy, full: Full) -> _Answers:
        return self._answers(policy, full.seen_by(spot=policy.spot, private_ip_only=policy.private_ip_only))

    def _build_stack(self, policies: tuple[Policy, ...], full: Full) -> _Table:
        """The tables of all policies as one, cell after cell."""
        tables = [self._for(policy, full).table for policy in policies]
        if len(tables) == 1:
            return tables[0]
        first = np.cumsum([0, *(len(table.rows) for table in tables)])
        depth = max((table.rows.shape[1] for table in tables), default=0)

        def joined(columns: list[Floats], filler: float) -> Floats:
            padded = (np.pad(c, ((0, 0), (0, depth - c.shape[1])), constant_values=filler) for c in columns)
            return np.concatenate((np.empty((0, depth)), *padded))

        return _Table(
            code=np.concatenate(
                [np.where(t.code < NONE, t.code - n, t.code) for t, n in zip(tables, first.tolist(), strict=False)]
                or [np.empty(0, np.int32)]
            ),
            price=np.concatenate([np.empty(0), *(table.price for table in tables)]),
            rows=joined([table.rows.astype(np.float64) for table in tables], NONE).astype(np.int32),
            prices=joined([table.prices for table in tables], np.inf),
            surcharges=joined([table.surcharges for table in tables], 0.0),
            baselines=joined([table.baselines for table in tables], 0.0),
        )

    def _build(self, policy: Policy, full: Full) -> _Answers:
        of = terms(self.catalogue, policy, full)
        fit = np.flatnonzero(of.fits)
        order = fit[np.lexsort((self._ties[fit], of.price[fit]))]  # The better in a tie comes first: a type's rank.
        flat = self._flat(of, order)
        rising = _Rising.of(of, order, self._steps_of(of, order))
        cells: tuple[Ints, ...] = ()
        code = np.where(flat < len(order), np.append(order, NONE)[np.minimum(flat, len(order))], NONE)
        price = np.where(code >= 0, np.append(of.price, np.inf)[code], np.inf)
        candidates = np.empty((0, 0), np.int64)
        if len(rising.rank):
            cells, candidates = rising.candidates(self._cpu.steps, flat, np.append(of.price[order], np.inf))
        if len(candidates):
            candidates, number = np.unique(candidates, axis=0, return_inverse=True)
            code[cells] = -2 - number.reshape(-1)
        rows = np.append(order, NONE)[np.minimum(candidates, len(order))]
        table = _Table(
            code=code.astype(np.int32).reshape(-1),
            price=price.reshape(-1),
            rows=rows.astype(np.int32),
            prices=np.append(of.price, np.inf)[rows],
            surcharges=np.append(of.surcharge, 0.0)[rows],
            baselines=np.append(of.baseline, 0.0)[rows],
        )
        return _Answers(table, of)

    def _steps_of(self, of: Terms, rows: Ints) -> "_Steps":
        """Up to which cell each type is large enough, and from which on its cost rises with cpu."""
        return _Steps(
            begin=np.searchsorted(self._cpu.steps, np.minimum(of.baseline[rows], of.cpu_limit[rows])),
            end=np.searchsorted(self._cpu.steps, of.cpu_limit[rows]),
            memory=np.searchsorted(self._memory.steps, of.memory_limit[rows]),
        )

    def _flat(self, of: Terms, order: Ints) -> Ints:
        """Rank of the best type in each cell among those whose cost does not rise there; ``len(order)`` for none."""
        steps = self._steps_of(of, order)
        last = np.where(of.surcharge[order] > 0, steps.begin, steps.end)
        best = np.full((len(self._cpu) + 1, self._width), len(order), dtype=np.int64)
        np.minimum.at(best, (last, steps.memory), np.arange(len(order)))
        best = np.minimum.accumulate(best[::-1], axis=0)[::-1]
        return np.minimum.accumulate(best[:, ::-1], axis=1)[:, ::-1]


@dataclass(frozen=True, eq=False, slots=True)
class _Steps:
    """Cells per type: its cost rises in cells after ``begin`` and up to ``end`` of the CPU axis."""

    begin: Ints
    end: Ints
    memory: Ints


@dataclass(frozen=True, eq=False, slots=True)
class _Rising:
    """The burstable types of a policy beyond their baseline. Element i of each column is the i-th of them by rank."""

    rank: Ints
    price: Floats
    surcharge: Floats
    baseline: Floats
    steps: _Steps

    @classmethod
    def of(cls, of: Terms, order: Ints, steps: _Steps) -> "_Rising":
        """Those for which no other one is better whatever is asked."""
        rank = np.flatnonzero((of.surcharge[order] > 0) & (steps.begin < steps.end))
        for_rank = [of.surcharge[order], -of.baseline[order], -steps.end, -steps.memory]
        columns = np.stack([column[rank].astype(np.float64) for column in for_rank])
        kept: list[int] = []
        for i in range(len(rank)):  # The price rises with the rank, so only those before can be better.
            if not (columns[:, kept] <= columns[:, i : i + 1]).all(axis=0).any():
                kept.append(i)
        rank = rank[kept]
        rows = order[rank]
        own = _Steps(steps.begin[rank], steps.end[rank], steps.memory[rank])
        return cls(rank, of.price[rows], of.surcharge[rows], of.baseline[rows], own)

    def candidates(self, cpu_steps: Floats, flat: Ints, flat_price: Floats) -> tuple[tuple[Ints, Ints], Ints]:
        """The cells in which cost rises for a type that may win, and the ranks that may win in each, best in a tie
        first, padded with ``_NO_RANK``."""
        low = np.concatenate(([-np.inf], cpu_steps))
        high = np.concatenate((cpu_steps, [np.inf]))
        at_low = self.price + self.surcharge * np.maximum(0.0, low[:, None] - self.baseline)
        at_high = self.price + self.surcharge * np.maximum(0.0, high[:, None] - self.baseline)
        cpu_cell = np.arange(len(low))[:, None]
        rises = (self.steps.begin < cpu_cell) & (cpu_cell <= self.steps.end)
        memory_cell = np.arange(flat.shape[1])[:, None]
        active = rises[:, None, :] & (memory_cell <= self.steps.memory)[None]
        best_flat = flat_price[flat][:, :, None]
        flat_first = flat[:, :, None] < self.rank
        active &= ~_not_after(best_flat, at_low[:, None, :], flat_first)
        active &= ~self._beaten(at_low, at_high, active)
        beats_flat = active & _not_after(at_high[:, None, :], best_flat, ~flat_first)
        cells = np.nonzero(active.any(axis=2))
        ranks = np.where(active[cells], self.rank, _NO_RANK)
        flat_rank = np.where(
            beats_flat[cells].any(axis=1) | (flat[cells] >= len(flat_price) - 1), _NO_RANK, flat[cells]
        )
        listed = np.sort(np.column_stack((ranks, flat_rank)), axis=1)
        depth = int((listed != _NO_RANK).sum(axis=1).max(initial=0))
        return (cells[0], cells[1]), listed[:, :depth]

    def _beaten(self, at_low: Floats, at_high: Floats, active: Flags) -> Flags:
        """Which active ones cost more than another active one in the whole cell, by more than rounding can make."""
        slack = 1.0 + _ROUNDING
        below = (at_low[:, None, :] * slack < at_low[:, :, None]) & (at_high[:, None, :] * slack < at_high[:, :, None])
        beaten: Flags = np.einsum("abj,aij->abi", active, below, dtype=np.bool_)
        return beaten


def _not_after(cost: Floats, other: Floats, first: Flags) -> Flags:
    """Whether the one at ``cost`` comes before the other; ``first`` where it wins a tie."""
    before: Flags = (cost < other) | ((cost == other) & first)
    return before


def _compare(table: _Table, lists: Rows, cpu: Floats, places: Ints, answer: Selection) -> None:
    """Evaluates the candidates of the requests at ``places`` one after the other; the first wins a tie."""
    row = np.full(len(cpu), NONE, dtype=np.int32)
    best, extra = np.full(len(cpu), np.inf), np.zeros(len(cpu))
    for place in range(table.rows.shape[1]):
        surcharge = cpu - table.baselines[:, place].take(lists)
        np.maximum(surcharge, 0.0, out=surcharge)
        surcharge *= table.surcharges[:, place].take(lists)
        cost = table.prices[:, place].take(lists) + surcharge
        better = cost < best
        row[better] = table.rows[:, place].take(lists)[better]
        best[better] = cost[better]
        extra[better] = surcharge[better]
    answer.row[places] = row
    answer.cost[places] = best
    answer.surcharge[places] = extra


@lru_cache(maxsize=40)
def selector_of(catalogue: Catalogue) -> Selector:
    """The selector of a catalogue, made once."""
    return Selector(catalogue)
