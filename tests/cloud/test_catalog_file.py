"""The catalogue's file: what is written is read, the same facts give the same bytes, and damage is always noticed."""

import io
import math
import zipfile
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.catalog_file import (
    META,
    CatalogBroken,
    InstanceType,
    Offer,
    RegionFacts,
    read_region,
    read_regions,
    read_types,
    write,
)

TYPES = {
    each.name: each
    for each in (
        InstanceType("m5.large", 5, 2, 8192, "amd64", baseline=2.0, current_generation=True),
        InstanceType("t3.nano", 3, 2, 512, "amd64", burstable=True, baseline=0.1, surcharge=0.05),
        InstanceType("g4dn.xlarge", 4, 4, 16384, "amd64", 1, "NVIDIA T4", 16384, baseline=4.0),
    )
}
NORTH = RegionFacts(
    "north-1",
    date(2026, 1, 2),
    "test",
    {
        "t3.nano": Offer(0.0052, math.nan, {"north-1a": math.nan}),
        "m5.large": Offer(0.096, 0.04, {"north-1a": 0.03, "north-1b": 0.05}),
    },
)
SOUTH = RegionFacts("south-1", date(2025, 1, 2), "test", {"m5.large": Offer(0.1, 0.05, {})})


def content(*regions: RegionFacts) -> bytes:
    buffer = io.BytesIO()
    write(buffer, TYPES, regions)
    return buffer.getvalue()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content(NORTH, SOUTH))
    assert read_regions(path) == {"north-1": date(2026, 1, 2), "south-1": date(2025, 1, 2)}
    assert read_types(path) == {name: TYPES[name] for name in ("m5.large", "t3.nano")}  # nobody offers the third
    north, south = read_region(path, "north-1"), read_region(path, "south-1")
    assert north.types["name"].tolist() == ["m5.large", "t3.nano"]
    assert north.types["baseline"].tolist() == [2.0, 0.1]
    assert north.on_demand.tolist() == [0.096, 0.0052]
    assert north.zones == ("north-1a", "north-1b")
    assert north.offered.tolist() == [[True, True], [True, False]]
    assert north.spot_zone is not None
    assert north.spot_zone[0].tolist() == [0.03, 0.05]
    assert south.spot_zone is None
    assert (south.zones, south.offered.shape) == ((), (1, 0))


def test_the_same_facts_give_the_same_bytes() -> None:
    backwards = RegionFacts(NORTH.name, NORTH.as_of, NORTH.source, dict(reversed(NORTH.offers.items())))
    assert content(NORTH, SOUTH) == content(backwards, SOUTH)


def test_an_offer_of_an_unknown_type_is_an_error() -> None:
    with pytest.raises(KeyError, match="x9"):
        content(RegionFacts("north-1", date(2026, 1, 2), "test", {"x9": Offer(1.0, 1.0, {})}))


def test_a_region_that_it_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content(SOUTH))
    with pytest.raises(CatalogBroken, match="does not hold region 'north-1'"):
        read_region(path, "north-1")
    with pytest.raises(FileNotFoundError):
        read_region(tmp_path / "none.npz", "north-1")


def _rewritten(name: str, replacement: bytes | None) -> bytes:
    """A sound zip with one member replaced or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content(NORTH))) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
            elif replacement is not None:
                new.writestr(member, replacement)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        (META, None),
        (META, b"{"),
        (META, b"[]"),
        (META, b'{"format": 2, "regions": {}}'),
        (META, b'{"format": 1, "regions": {"north-1": {}}}'),
        (META, b'{"format": 1, "regions": {"north-1": {"as_of": "soon", "source": ""}}}'),
        ("north-1/spot", None),
        ("north-1/types", b"not an array"),
        ("types/vcpus", b"\x93NUMPY\x01\x00"),
    ],
)
def test_wrong_members_are_damage(tmp_path: Path, name: str, replacement: bytes | None) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(_rewritten(name, replacement))
    with pytest.raises(CatalogBroken, match=r"x\.npz"):
        read_region(path, "north-1")


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([{}], dtype=object), allow_pickle=True)
    path = tmp_path / "x.npz"
    path.write_bytes(_rewritten("north-1/spot", buffer.getvalue()))
    with pytest.raises(CatalogBroken, match="allow_pickle"):
        read_region(path, "north-1")


WHOLE = content(NORTH)


@given(at=st.integers(0, len(WHOLE) - 1), bits=st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, at: int, bits: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(WHOLE[:at] + bytes([WHOLE[at] ^ bits]) + WHOLE[at + 1 :])
    try:
        found = read_region(path, "north-1")
    except CatalogBroken:
        return
    assert (found.as_of, found.zones) == (NORTH.as_of, ("north-1a", "north-1b"))
    assert found.on_demand.tolist() == [0.096, 0.0052]
    assert found.types["name"].tolist() == ["m5.large", "t3.nano"]


@pytest.mark.parametrize("flag", [0x01, 0x20, 0x40], ids=["encrypted", "patched", "strongly encrypted"])
def test_an_entry_with_a_flag_that_zip_gives_a_meaning_is_damage(tmp_path: Path, flag: int) -> None:
    damaged = bytearray(WHOLE)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = damaged.find(magic)
        while at >= 0:
            damaged[at + offset] |= flag
            at = damaged.find(magic, at + 1)
    path = tmp_path / "flags.npz"
    path.write_bytes(damaged)
    with pytest.raises(CatalogBroken, match="damaged"):
        read_region(path, "north-1")


@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_cut_file_is_noticed(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.npz"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(CatalogBroken):
        read_region(path, "north-1")
