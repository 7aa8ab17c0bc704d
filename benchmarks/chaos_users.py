"""Users of a cluster under faults: they create and delete pods at a rate, repeat what failed, and remember what was
acknowledged. The ledger says what must be true in the end; it believes only what the API server has answered.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from benchmarks.load import LABELS
from milpa_ray.api import Pod
from milpa_ray.client import AsyncClient, Outcome, Ref, WriteResult
from milpa_ray.errors import MilpaError, NotFound, Retryable

RETRY_S = 0.3
MEAN_LIFE_S = 10.0
REUSED_NAMES = 0.2
"""Part of the deleted pods that is made anew under its name, before the old one is gone."""
IN_FLIGHT = 300
LIFE = "life"
"""Label that tells our pod from another under its name."""


@dataclass(slots=True, eq=False)
class Wish:
    """One pod as its user wants it, and what was acknowledged of it."""

    name: str
    life: int
    after: "Wish | None" = None
    uid: str = ""
    created: bool = False
    delete_asked: bool = False
    deleted: bool = False


@dataclass(slots=True)
class Ledger:
    """All wishes, and what the users went through. ``pending`` counts those that wait for an answer."""

    wishes: list[Wish] = field(default_factory=list)
    pending: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_write_s: float = 0.0
    longest_read_s: float = 0.0

    @property
    def created(self) -> int:
        return sum(wish.created for wish in self.wishes)

    @property
    def deleted(self) -> int:
        return sum(wish.deleted for wish in self.wishes)


class Users:
    """Creates ``rate`` pods a second for as long as ``live`` lasts, and deletes them some seconds later."""

    def __init__(self, client: AsyncClient, rng: Random, ledger: Ledger) -> None:
        self._client = client
        self._rng = rng
        self.ledger = ledger
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def live(self, rate: float, span_s: float) -> None:
        """Starts lives for ``span_s`` seconds. Pods that live then stay."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = 0
        while (now := loop.time()) - began < span_s:
            while number < (now - began) * rate:
                self._start(Wish(f"chaos-{number:06d}", len(self.ledger.wishes)))
                number += 1
            await asyncio.sleep(min(0.1, 1.0 / rate))
        self._ended.set()

    async def settle(self, timeout_s: float) -> bool:
        """Waits until every operation has its answer. False: some have none after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        return not self._tasks

    async def close(self) -> None:
        """Gives up what is under way."""
        self._ended.set()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, wish: Wish) -> None:
        self.ledger.wishes.append(wish)
        task = asyncio.create_task(self._live(wish))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, wish: Wish) -> None:
        life_s, again = self._rng.expovariate(1.0 / MEAN_LIFE_S), self._rng.random() < REUSED_NAMES
        try:
            await self.create(wish)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(life_s):
                    await self._ended.wait()
                    return
            await self.delete(wish)
        except MilpaError as error:
            self.ledger.wrong.append(f"{wish.name}: the client was told: {type(error).__name__}: {error}")
            return
        if again and not self._ended.is_set():
            self._start(Wish(wish.name, len(self.ledger.wishes), after=wish))

    async def create(self, wish: Wish) -> None:
        """Creates the pod, however often that has to be asked; waits while its name is taken by the one before."""
        pod = manifest(wish)
        began = time.monotonic()
        while True:
            result = await self._answer("create", lambda: self._client.create(pod))
            if result.outcome is Outcome.CREATED:
                wish.uid = result.uid
                break
            if result.outcome in (Outcome.ALREADY_EXISTS, Outcome.ENDED):
                # An earlier try, whose answer said that its effect is unknown, may have made it.
                if await self._is_mine(wish):
                    break
                reason = "name still taken"
            elif result.outcome is not Outcome.FAILED:
                self.ledger.wrong.append(f"create {wish.name}: answered {result.outcome}: {result.message}")
                return
            else:
                reason = result.message
            self.ledger.repeated[f"create: {reason}"] += 1
            await asyncio.sleep(RETRY_S)
        wish.created = True
        if wish.after is None:
            self.ledger.longest_write_s = max(self.ledger.longest_write_s, time.monotonic() - began)

    async def delete(self, wish: Wish) -> None:
        """Deletes the pod, however often that has to be asked."""
        wish.delete_asked = True
        began = time.monotonic()
        ref = Ref("Pod", wish.name, wish.uid)
        while True:
            result = await self._answer("delete", lambda: self._client.delete_refs([ref]))
            if result.outcome in (Outcome.DELETED, Outcome.NOT_FOUND):
                break
            if result.outcome is not Outcome.FAILED:
                self.ledger.wrong.append(f"delete {wish.name}: answered {result.outcome}: {result.message}")
                return
            self.ledger.repeated[f"delete: {result.message}"] += 1
            await asyncio.sleep(RETRY_S)
        wish.deleted = True
        self.ledger.longest_write_s = max(self.ledger.longest_write_s, time.monotonic() - began)

    async def _is_mine(self, wish: Wish) -> bool:
        while True:
            try:
                found = await self._client.get(Pod, wish.name)
            except NotFound:
                return False
            except Retryable:
                await asyncio.sleep(RETRY_S)
                continue
            if found.metadata.labels.get(LIFE) != str(wish.life):
                return False
            wish.uid = found.uid
            return True

    async def _answer(self, what: str, ask: Callable[[], Awaitable[list[WriteResult]]]) -> WriteResult:
        self.ledger.pending += 1
        try:
            while True:
                try:
                    async with self._slots:
                        return (await ask())[0]
                except Retryable as error:
                    self.ledger.repeated[f"{what}: {type(error).__name__}"] += 1
                    await asyncio.sleep(RETRY_S)
        finally:
            self.ledger.pending -= 1


def manifest(wish: Wish) -> Pod:
    """What the user writes."""
    labels = {**LABELS, LIFE: str(wish.life)}
    return AsyncClient.pod(wish.name, "registry.local/app:1", ["serve"], labels=labels, instance_type="t3.nano")


@contextlib.asynccontextmanager
async def reading(client: AsyncClient, ledger: Ledger) -> AsyncIterator[None]:
    """Reads a pod that does not exist over and over, and notes the longest time without an answer."""

    async def read() -> None:
        answered = time.monotonic()
        while True:
            with contextlib.suppress(NotFound, Retryable):
                try:
                    await client.get(Pod, "nobody")
                except NotFound:
                    ledger.longest_read_s = max(ledger.longest_read_s, time.monotonic() - answered)
                    answered = time.monotonic()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
