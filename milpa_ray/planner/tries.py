"""How many of the places that fit a request were full a moment ago: what bounds the search for room.

A place is an instance type in a zone. Counts what is remembered; what to do about it, ``choose`` decides.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from milpa_ray.planner.catalogue import Catalogue, Floats
from milpa_ray.planner.eligibility import Constraint, terms
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.request import Policy, Request

KEPT = 128
"""Policies whose tried places are kept."""


@dataclass(frozen=True, eq=False, slots=True)
class _Tried:
    """The full places that fit a policy: the greatest request that fits each (cores, MiB)."""

    cpu: Floats
    memory: Floats


def tried_in_vain(catalogue: Catalogue, request: Request, full: Full) -> int:
    """How many (instance type, zone) that fit the request, of its capacity type, were full a moment ago."""
    tried = _tried(catalogue, request.policy, full.types)
    return int(np.count_nonzero((request.cpu <= tried.cpu) & (request.memory_mib <= tried.memory)))


@lru_cache(maxsize=KEPT)
def _tried(catalogue: Catalogue, policy: Policy, full: frozenset[tuple[bool, str, str]]) -> _Tried:
    of = terms(catalogue, policy, NOTHING_FULL)
    others = of.failed.copy()
    others[:, Constraint.CAPACITY] = False
    fits = set(np.flatnonzero(~others.any(axis=1)).tolist())
    rows = [
        catalogue.index(name)
        for spot, name, zone in full
        if spot == policy.spot and name in catalogue and policy.zone in ("", zone)
    ]
    rows = [row for row in rows if row in fits]
    return _Tried(of.cpu_limit[rows], of.memory_limit[rows])
