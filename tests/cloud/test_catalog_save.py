"""A region's fresh facts are saved whole or not at all: killed at any step, in doubt, or without room."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import pytest

from cloud.catalog import find_catalog, known_types, load_catalog, refreshed_file
from cloud.catalog_file import CatalogBroken, InstanceType, Offer, RegionFacts
from cloud.catalog_save import save

REGION = "me-south-1"
TODAY = date(2026, 11, 22)
TYPES = known_types()


def facts(factor: float = 1.0, as_of: date = TODAY, names: Iterable[str] | None = None) -> RegionFacts:
    """The shipped offers with all prices times ``factor``."""
    shipped = find_catalog(REGION).catalogue
    offers = {
        name: Offer(shipped.price(name) * factor, math.nan, dict.fromkeys(shipped.zones_of(name), 0.01))
        for name in (shipped.names if names is None else names)
    }
    return RegionFacts(REGION, as_of, "test", offers)


def price(folder: Path) -> float:
    """Of one type, relative to the shipped price, as a controller would load it."""
    return load_catalog(REGION, folder).price("m5.large") / load_catalog(REGION).price("m5.large")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saved_facts_are_used_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    found = save(folder, facts(1.5), TYPES)
    assert found.path == refreshed_file(folder, REGION)
    assert (found.as_of, found.source) == (TODAY, "test")
    assert price(folder) == pytest.approx(1.5)
    assert load_catalog(REGION, folder).price_spot_zone[0, 0] == 0.01
    assert files(folder) == [f"{REGION}.npz"]
    assert found.path.stat().st_mode & 0o777 == 0o644
    save(folder, facts(2.0), TYPES)
    assert price(folder) == pytest.approx(2.0)


KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from tests.cloud.test_catalog_save import TYPES, facts
from cloud.catalog_save import save
import cloud.catalog_save as module

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

folder, step = Path(sys.argv[1]), sys.argv[2]
class Dying:
    def __init__(self, file): self.file, self.left = file, 2_000
    def __getattr__(self, name): return getattr(self.file, name)
    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            self.file.flush()
            die()
        return self.file.write(data)

write = module.write
match step:
    case "half written": module.write = lambda file, *rest: write(Dying(file), *rest)
    case "before sync": module.os.fsync = die
    case "before check": module.read_refreshed = die
    case "before rename": Path.replace = die
    case "after rename": module._sync_folder = die
save(folder, facts(1.5), TYPES)
"""
STEPS = ("half written", "before sync", "before check", "before rename", "after rename")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "catalog"
    save(folder, facts(1.2), TYPES)
    before = refreshed_file(folder, REGION).read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), step], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    leftovers = [name for name in files(folder) if name.endswith(".tmp")]
    if step == "after rename":
        assert (price(folder), leftovers) == (pytest.approx(1.5), [])
    else:
        assert refreshed_file(folder, REGION).read_bytes() == before
        assert price(folder) == pytest.approx(1.2)
        assert len(leftovers) == 1
        assert (folder / leftovers[0]).stat().st_size > 0 or step == "half written"
    # What it has left under another name, the next one deletes.
    save(folder, facts(1.7), TYPES)
    assert price(folder) == pytest.approx(1.7)
    assert files(folder) == [f"{REGION}.npz"]


def test_one_at_work_is_not_taken_for_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cloud.catalog_save as module

    checks = module._doubt

    def second_meanwhile(*arguments: object) -> str:
        monkeypatch.setattr(module, "_doubt", checks)
        save(tmp_path, facts(1.3), TYPES)
        return ""

    monkeypatch.setattr(module, "_doubt", second_meanwhile)
    save(tmp_path, facts(1.6), TYPES)
    assert price(tmp_path) == pytest.approx(1.6)  # the last one wins
    assert files(tmp_path) == [f"{REGION}.npz"]


@pytest.mark.parametrize(
    ("doubtful", "words"),
    [
        (facts(names=["m5.large", "t3.nano"]), r"only 2 instance types are left of \d+"),
        (facts(8.4), "7 times"),
        (facts(0.12), "0.1 times"),
        (facts(as_of=date(2020, 1, 1)), "clock says 2020-01-01"),
        (facts(-1.0), "not a positive number"),
        (facts(math.inf), "not a positive number"),
    ],
)
def test_facts_that_cannot_be_true_replace_nothing(tmp_path: Path, doubtful: RegionFacts, words: str) -> None:
    save(tmp_path, facts(1.2), TYPES)
    with pytest.raises(CatalogBroken, match=words):
        save(tmp_path, doubtful, TYPES)
    assert price(tmp_path) == pytest.approx(1.2)
    assert files(tmp_path) == [f"{REGION}.npz"]


def test_a_figure_that_does_not_fit(tmp_path: Path) -> None:
    huge = {**TYPES, "m5.large": InstanceType("m5.large", 5, 1 << 20, 8192, "amd64", baseline=2.0)}
    with pytest.raises(CatalogBroken, match="too big"):
        save(tmp_path, facts(), huge)
    assert files(tmp_path) == []


def test_a_broken_old_file_is_replaced(tmp_path: Path) -> None:
    refreshed_file(tmp_path, REGION).write_bytes(b"broken")
    save(tmp_path, facts(1.2), TYPES)
    assert price(tmp_path) == pytest.approx(1.2)


def test_a_region_that_nothing_is_known_of(tmp_path: Path) -> None:
    new = RegionFacts("ap-east-9", TODAY, "test", {"m5.large": Offer(0.1, math.nan, {"ap-east-9a": math.nan})})
    assert save(tmp_path, new, TYPES).catalogue.names == ("m5.large",)
    assert load_catalog("ap-east-9", tmp_path).names == ("m5.large",)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, facts(1.2), TYPES)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("cloud.catalog_save.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, facts(1.5), TYPES)
    monkeypatch.undo()
    assert price(tmp_path) == pytest.approx(1.2)
    assert files(tmp_path) == [f"{REGION}.npz"]
