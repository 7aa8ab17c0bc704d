"""Asks the other actors for their state, from within an actor; for ``milpactl dump``."""

import asyncio
from typing import Any

from shards.ray_cluster import NAMESPACE

ANSWER_TIMEOUT_S = 3.0


async def controller_dumps() -> dict[str, Any]:
    """The state of every actor by name. One that does not answer within 3 s shows as an error."""
    import ray

    names: list[str] = await asyncio.to_thread(ray.util.list_named_actors)
    answers = await asyncio.gather(*(_ask(name) for name in names))
    return dict(zip(names, answers, strict=True))


async def _ask(name: str) -> dict[str, Any]:
    import ray

    try:
        handle = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer: dict[str, Any] = await handle.dump.remote()
    except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
        return {"error": str(error) or "no answer"}
    return answer
