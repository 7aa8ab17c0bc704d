"""Placing values between steps equals numpy's search for every value, at and around the steps above all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.planner.axis import Axis

STEP = st.one_of(st.sampled_from((0.0, 0.1, 0.2, 0.30000000000000004, 0.3, 1.0, 1e9)), st.floats(0, 1e6))
VALUE = st.one_of(st.floats(allow_nan=False), st.floats(0, 1e6))


@given(st.lists(STEP, max_size=30, unique=True), st.lists(VALUE, max_size=30))
def test_places_equal_a_search(steps: list[float], values: list[float]) -> None:
    axis = Axis(np.array(sorted(steps)))
    near = [math.nextafter(step, to) for step in steps for to in (-math.inf, math.inf)]
    asked = np.array([*values, *steps, *near, 0.0, -0.0, -1.0, math.inf, -math.inf])
    expected = np.searchsorted(axis.steps, asked).tolist()
    assert axis.places(asked).tolist() == expected
    assert [axis.place(value) for value in asked.tolist()] == expected


@pytest.mark.parametrize("steps", [[0.5, 1, 2, 96, 896], [0, 0.05, 0.1, 192], [512, 627, 1024, 15360, 15616, 33554432]])
def test_common_steps_need_no_search(steps: list[float]) -> None:
    assert Axis(np.array(steps, dtype=float))._shift >= 0
