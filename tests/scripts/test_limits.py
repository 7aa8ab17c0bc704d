"""The size limits: what is within them passes, what exceeds them is named with its place."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "limits.py"


@pytest.fixture(scope="module")
def limits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("limits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(lines: int) -> str:
    return "def f():\n" + "    pass\n" * (lines - 1)


def test_what_fits_passes(limits: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "fits.py"
    path.write_text(function(limits.MAX_FUNCTION_LINES) + "\n" * (limits.MAX_FILE_LINES - limits.MAX_FUNCTION_LINES))
    assert list(limits.excesses(path)) == []


def test_a_long_function_is_named_with_its_line(limits: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("\nasync " + function(limits.MAX_FUNCTION_LINES + 1))
    (found,) = limits.excesses(path)
    assert found.startswith(f"{path}:2: f has {limits.MAX_FUNCTION_LINES + 1} lines")


def test_a_long_file_is_named(limits: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("\n" * (limits.MAX_FILE_LINES + 1))
    (found,) = limits.excesses(path)
    assert "split the file" in found


def test_generated_code_is_left_out(limits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SCRIPT.parents[1])
    names = {path.name for path in limits.sources()}
    assert "limits.py" in names
    assert not any("_pb2" in name for name in names)
