"""What an agent that died had started does not outlive the cleaning up."""

import subprocess
from pathlib import Path

from nodeagent.cleanup import clean_up

WAIT = "read line"


def test_a_tool_that_was_under_way_is_ended_and_no_other(tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "state-of-another"
    state.mkdir()
    with (
        subprocess.Popen(["sh", "-c", WAIT, "tool", str(state / "units")], stdin=subprocess.PIPE) as tool,
        subprocess.Popen(["sh", "-c", WAIT, "tool", str(other / "units")], stdin=subprocess.PIPE) as bystander,
    ):
        assert clean_up(state) == []
        assert tool.wait(5) == -9
        assert bystander.poll() is None
        bystander.communicate(b"\n")
