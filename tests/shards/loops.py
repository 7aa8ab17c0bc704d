"""Controllers without a controller: loops for tests of the actors around them."""

import asyncio
import os
import uuid
from collections.abc import Mapping
from typing import Any

from shards.actors import ActorConfig


class Turning:
    """Turns for ever; a fresh incarnation each time it is built."""

    def __init__(self) -> None:
        self.incarnation = str(uuid.uuid4())
        self.turns = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0.01)

    def ready(self) -> bool:
        return self.turns > 0

    def dump(self) -> Mapping[str, Any]:
        return {
            "incarnation": self.incarnation,
            "turns": self.turns,
            "loop": type(asyncio.get_running_loop()).__module__,
        }

    async def close(self) -> None:
        return None


class Failing(Turning):
    """Its loop fails at once."""

    async def run(self) -> None:
        raise ValueError("the loop broke on purpose")


async def turning(config: ActorConfig) -> Turning:
    return Turning()


async def failing(config: ActorConfig) -> Turning:
    return Failing()


async def unbuildable(config: ActorConfig) -> Turning:
    raise OSError(f"process {os.getpid() > 0} has no store")
