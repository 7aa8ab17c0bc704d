"""Long computations leave room for others."""

import asyncio
import itertools

from milpa_ray.clock import SystemClock
from milpa_ray.server.turns import Turns


class TickingClock(SystemClock):
    """Each look at the clock takes a millisecond."""

    ticks = 0.0

    def monotonic(self) -> float:
        self.ticks += 0.001
        return self.ticks


async def test_results_come_in_order() -> None:
    assert await Turns(SystemClock()).map(lambda n: n * 2, range(1000)) == [n * 2 for n in range(1000)]
    assert await Turns(SystemClock()).map(lambda n: n, []) == []


async def test_others_run_between_turns_and_big_ones_take_turns_with_each_other() -> None:
    turns = Turns(TickingClock(), turn_s=0.01)
    order: list[str] = []
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while len(order) < 200:
            rounds += 1
            await asyncio.sleep(0)

    await asyncio.gather(
        turns.map(lambda _: order.append("a"), range(100)), turns.map(lambda _: order.append("b"), range(100)), other()
    )
    changes = sum(1 for left, right in itertools.pairwise(order) if left != right)
    assert changes >= 15
    assert rounds >= 20
