"""The examples of docs/python-api.md run, in order, against a real server."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import Served

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"


async def test_every_example_runs(controlled: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_HOME", str(controlled.cert_dir.parent))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) >= 10
    told: list[str] = []

    def run() -> None:
        space: dict[str, Any] = {"print": lambda *words, **_: told.append(" ".join(map(str, words)))}
        for example in examples:
            exec(compile(example.replace("localhost:54555", controlled.endpoint), str(PAGE), "exec"), space)
        space["client"].close()

    await asyncio.to_thread(run)
    assert {"hello\n", "world\n", "web Running n1", "synced ", "there is no pod 'nobody'"} <= set(told)
