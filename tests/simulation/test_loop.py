"""The simulation's own ground: virtual time, processes that die and pause, and repeatability."""

import asyncio
from contextvars import Context
from random import Random

import pytest

from tests.simulation.loop import Deadlock, OutOfSteps, SimLoop
from tests.simulation.process import Passage, SimProcess, in_world, remote


def run(loop: SimLoop, coro) -> None:
    try:
        loop.run_until_complete(loop.create_task(coro, context=Context()))
    finally:
        loop.tear_down()


def process(loop: SimLoop, main, name: str = "p") -> SimProcess:
    made = SimProcess(loop, name, "toy")
    made.start(main, lambda task: None)
    return made


def test_time_jumps_to_the_next_timer():
    loop = SimLoop()
    run(loop, asyncio.sleep(100_000.0))
    assert loop.time() == 100_000.0
    assert loop.steps < 10


def test_killed_process_runs_nothing_more_not_even_finally():
    loop, seen = SimLoop(), []

    async def main() -> None:
        try:
            seen.append("began")
            await asyncio.sleep(10)
            seen.append("slept")
        finally:
            if not loop.tearing_down:
                seen.append("finally")

    async def drive() -> None:
        victim = process(loop, main())
        await asyncio.sleep(1)
        victim.kill()
        await asyncio.sleep(100)

    run(loop, drive())
    assert seen == ["began"]


def test_paused_process_goes_on_late_with_all_that_was_due():
    loop, times = SimLoop(), []

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            times.append(loop.time())

    async def drive() -> None:
        sleeper = process(loop, main())
        await asyncio.sleep(1.5)
        sleeper.pause()
        await asyncio.sleep(8.5)
        sleeper.resume()
        await asyncio.sleep(5)

    run(loop, drive())
    assert times == [1.0, 10.0, 11.0]


def test_request_takes_effect_though_its_sender_is_dead():
    loop, effects = SimLoop(), []

    async def effect() -> None:
        effects.append(loop.time())

    async def main() -> None:
        await remote(loop, Passage(request_s=5.0), effect)
        effects.append("answered")

    async def drive() -> None:
        sender = process(loop, main())
        await asyncio.sleep(1)
        sender.kill()
        await asyncio.sleep(10)

    run(loop, drive())
    assert effects == [5.0]


def test_late_effect_after_the_caller_was_told_an_error():
    loop, effects = SimLoop(), []

    async def effect() -> None:
        effects.append(loop.time())

    async def drive() -> None:
        with pytest.raises(ConnectionError):
            await remote(loop, Passage(request_s=5.0, error=ConnectionError(), error_s=1.0), effect)
        effects.append(("error", loop.time()))
        await asyncio.sleep(10)

    run(loop, drive())
    assert effects == [("error", 1.0), 5.0]


def test_deadlock_is_found():
    loop = SimLoop()
    with pytest.raises(Deadlock):
        run(loop, asyncio.Event().wait())


def test_spinning_is_found():
    loop = SimLoop(max_steps=10_000)

    async def spin() -> None:
        while not loop.tearing_down:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(OutOfSteps):
        run(loop, spin())


def test_threads_are_refused():
    loop = SimLoop()
    with pytest.raises(RuntimeError, match="no threads"):
        run(loop, asyncio.to_thread(print))


def order_of(seed: int) -> list[tuple[str, int]]:
    loop, order = SimLoop(Random(seed)), []

    async def main(name: str) -> None:
        for turn in range(20):
            order.append((name, turn))
            await asyncio.sleep(0)

    async def drive() -> None:
        for name in "abc":
            process(loop, main(name), name)
        await asyncio.sleep(1)

    run(loop, drive())
    return order


def test_order_of_processes_is_drawn_and_their_own_order_kept():
    assert order_of(1) == order_of(1)
    assert order_of(1) != order_of(2)
    for name in "abc":
        assert [turn for who, turn in order_of(3) if who == name] == list(range(20))


def test_sets_of_tasks_iterate_the_same_in_every_run():
    def ended() -> list[str]:
        loop, names = SimLoop(), []

        async def drive() -> None:
            tasks = {loop.create_task(asyncio.sleep(1), name=f"t{n}") for n in range(50)}
            done, _ = await asyncio.wait(tasks)
            names.extend(task.get_name() for task in done)

        run(loop, drive())
        return names

    assert ended() == ended()


def test_world_work_belongs_to_nobody():
    loop, seen = SimLoop(), []

    async def work() -> None:
        await asyncio.sleep(2)
        seen.append(loop.time())

    async def main() -> None:
        in_world(loop, work())
        await asyncio.sleep(100)

    async def drive() -> None:
        asker = process(loop, main())
        await asyncio.sleep(1)
        asker.kill()
        await asyncio.sleep(5)

    run(loop, drive())
    assert seen == [2.0]
