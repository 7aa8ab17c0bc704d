"""Finds for many numbers at once between which steps of an axis they lie: ``np.searchsorted``, but ten times as fast
for few steps.

The leading bits of a positive float order like the float itself. So they number buckets, each so narrow that at most
one step lies in it, and one look and one comparison place a value. Exact for every value but NaN.
"""

from bisect import bisect_left

import numpy as np

from milpa_ray.planner.catalogue import Floats, Ints

_MANTISSA_BITS = 52
_MOST_BUCKETS = 1 << 14
"""So that a table stays in the processor's first cache levels. Steps too close for that are searched instead."""


class Axis:
    """``steps`` are sorted, finite, different from each other and at least 0."""

    def __init__(self, steps: Floats) -> None:
        self.steps = steps
        self._list: list[float] = steps.tolist()
        self._shift = -1
        positive = steps[steps > 0]
        for shift in range(_MANTISSA_BITS, -1, -1):
            keys = positive.view(np.int64) >> shift
            if len(keys) == 0 or keys[-1] - keys[0] >= _MOST_BUCKETS:
                return
            if keys[0] > 0 and len(np.unique(keys)) == len(keys):  # Bucket 0 is that of the value 0.
                self._shift = shift
                self._fill(positive, keys)
                return

    def _fill(self, positive: Floats, keys: Ints) -> None:
        """One bucket below all positive steps and one above, for whatever lies outside."""
        self._first = int(keys[0]) - 1
        below = np.zeros(int(keys[-1]) - self._first + 2, dtype=np.int64)
        below[keys - self._first + 1] = 1
        zeros = len(self.steps) - len(positive)
        self._base: Ints = zeros + np.cumsum(below)
        self._cut: Floats = np.full(len(below), np.inf)
        self._cut[keys - self._first] = positive
        if zeros:  # The lowest bucket is cut by the step 0.
            self._base[0], self._cut[0] = 0, 0.0

    def __len__(self) -> int:
        return len(self.steps)

    def place(self, value: float) -> int:
        """How many steps are less than ``value``."""
        return bisect_left(self._list, value)

    def places(self, values: Floats) -> Ints:
        """``place`` for many contiguous values."""
        if self._shift < 0:
            return np.searchsorted(self.steps, values)
        key = values.view(np.int64) >> self._shift
        key -= self._first
        found: Ints = self._base.take(key, mode="clip")
        found += values > self._cut.take(key, mode="clip")
        return found
