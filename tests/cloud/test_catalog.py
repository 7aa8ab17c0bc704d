"""The price catalogue: figures that anybody can look up, and what is left out."""

import logging
import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from cloud.catalog import Current, find_catalog, load_catalog, refreshed_file, regions
from cloud.catalog_file import InstanceType, Offer, RegionFacts, write
from milpa_ray.errors import Invalid
from milpa_ray.planner.catalogue import Catalogue


@pytest.fixture(scope="module")
def virginia() -> Catalogue:
    return load_catalog("us-east-1")


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_mib", "price"),
    [
        ("t3.nano", 2, 512, 0.0052),
        ("t3.micro", 2, 1024, 0.0104),
        ("m5.large", 2, 8192, 0.096),
        ("c5.large", 2, 4096, 0.085),
        ("c6a.large", 2, 4096, 0.0765),
    ],
)
def test_well_known_types(virginia: Catalogue, name: str, vcpus: int, memory_mib: int, price: float) -> None:
    row = virginia.index(name)
    assert (virginia.vcpus[row], virginia.memory_mib[row]) == (vcpus, memory_mib)
    assert virginia.price(name) == pytest.approx(price)
    assert 0 < virginia.price(name, spot=True) < price


def test_burstable_and_flex_types(virginia: Catalogue) -> None:
    nano, flex, large = (virginia.index(name) for name in ("t3.nano", "c7i-flex.large", "c5.large"))
    assert (virginia.burstable[nano], virginia.flex[nano], virginia.baseline[nano]) == (True, False, 0.1)
    assert (virginia.surcharge[nano], virginia.unlimited_by_default[nano]) == (0.05, True)
    assert (virginia.burstable[flex], virginia.flex[flex], virginia.baseline[flex]) == (False, True, 0.8)
    assert (virginia.burstable[large], virginia.flex[large], virginia.baseline[large]) == (False, False, 2)
    assert not virginia.unlimited_by_default[virginia.index("t2.nano")]
    assert virginia.surcharge[virginia.index("t4g.nano")] == 0.04
    assert not virginia.surcharge[flex]


def test_gpus_architectures_and_generations(virginia: Catalogue) -> None:
    row = virginia.index("g4dn.xlarge")
    assert (virginia.gpu_count[row], virginia.gpu_name[row], virginia.gpu_memory_mib[row]) == (1, "NVIDIA T4", 16384)
    assert virginia.arch[row] == "amd64"
    assert virginia.arch[virginia.index("c6g.large")] == "arm64"
    generations = {"m6idn.large": 6, "u-6tb1.metal": 1, "x2iedn.xlarge": 2, "c9g.large": 9}
    for name, generation in generations.items():
        if name in virginia:
            assert virginia.generation[virginia.index(name)] == generation
    assert virginia.bare_metal[virginia.index("c5.metal")]


def test_zones(virginia: Catalogue) -> None:
    assert virginia.zones == tuple(f"us-east-1{letter}" for letter in "abcdef")
    assert "us-east-1a" in virginia.zones_of("t3.nano")
    assert "us-east-1e" not in virginia.zones_of("t3.nano")
    assert len(virginia.zones_of("a1.large")) == 3


@pytest.mark.parametrize("name", ["p2.xlarge", "p3.2xlarge", "g3.4xlarge", "mac1.metal"])
def test_types_without_zone_or_price_are_left_out(virginia: Catalogue, name: str) -> None:
    assert name not in virginia
    with pytest.raises(KeyError):
        virginia.index(name)


@pytest.mark.parametrize("region", regions())
def test_every_region_is_sound(region: str) -> None:
    catalogue = load_catalog(region)
    assert len(catalogue) > 140
    assert list(catalogue.names) == sorted(set(catalogue.names))
    assert np.isfinite(catalogue.price_on_demand).all()
    assert (catalogue.price_on_demand > 0).all()
    known = catalogue.price_spot[~np.isnan(catalogue.price_spot)]
    assert ((known > 0) & np.isfinite(known)).all()
    assert (catalogue.baseline <= catalogue.vcpus).all()
    assert ((catalogue.baseline < catalogue.vcpus) <= (catalogue.burstable | catalogue.flex)).all()
    assert (catalogue.memory_mib > 0).all()
    assert catalogue.offered.shape == (len(catalogue), len(catalogue.zones))
    if catalogue.zones:
        assert catalogue.offered.any(axis=1).all()


def test_a_region_without_recorded_zones_has_its_types() -> None:
    catalogue = load_catalog("us-gov-west-1")
    assert catalogue.zones == ()
    assert catalogue.zones_of("m5.large") == ()
    assert math.isnan(catalogue.price("m5.large", spot=True))


def test_an_unknown_region_names_the_known_ones() -> None:
    with pytest.raises(Invalid, match=r"'us-east-9'.*us-east-1"):
        load_catalog("us-east-9")


def test_the_shipped_file_holds_all_that_the_data_do(virginia: Catalogue) -> None:
    found = {region: load_catalog(region) for region in regions()}
    assert len(found) == 34
    # 16,118 prices, less the 267 of types that a region does not offer any more.
    assert sum(len(catalogue) for catalogue in found.values()) == 16118 - 267
    assert len({name for catalogue in found.values() for name in catalogue.names}) == 1327
    without_zones = {region for region, catalogue in found.items() if not catalogue.zones}
    assert without_zones == {"us-gov-east-1", "us-gov-west-1", "ap-southeast-7", "mx-central-1"}
    assert sum(len(catalogue.zones) > 0 for catalogue in found.values()) == 30
    assert (virginia.burstable.sum(), virginia.flex.sum()) == (28, 35)


def test_what_is_cheapest_in_virginia(virginia: Catalogue) -> None:
    def cheapest(arch: str) -> list[str]:
        fits = (virginia.vcpus >= 2) & (virginia.memory_mib >= 2048) & (virginia.arch == arch)
        fits &= ~virginia.burstable & ~virginia.flex
        # The paravirtual-only families, which no image of today boots on.
        fits &= ~np.isin(virginia.family, ["t1", "m1", "m2", "c1"])
        rows = np.flatnonzero(fits)
        return [virginia.names[row] for row in rows[np.argsort(virginia.price_on_demand[rows], kind="stable")][:2]]

    assert cheapest("amd64") == ["c6a.large", "c5a.large"]
    assert cheapest("arm64") == ["a1.large", "c6g.large"]
    assert virginia.price("c7i-flex.large") == 0.08479


def test_a_zones_spot_price_is_the_regions_estimate_where_only_that_is_known(virginia: Catalogue) -> None:
    row = virginia.index("t3.nano")
    by_zone = dict(zip(virginia.zones, virginia.price_spot_zone[row], strict=True))
    assert by_zone["us-east-1a"] == virginia.price("t3.nano", spot=True)
    assert math.isnan(by_zone["us-east-1e"])  # that zone does not have it


def test_nobody_can_change_the_catalogue_that_all_share(virginia: Catalogue) -> None:
    with pytest.raises(ValueError, match="read-only"):
        virginia.price_on_demand[0] = 0


# ---------------------------------------------------------------- refreshed files


def refresh(folder: Path, as_of: date, region: str = "us-east-1", **offers: Offer) -> Path:
    path = refreshed_file(folder, region)
    names = offers or {"m5.large": Offer(0.1, 0.04, {f"{region}a": 0.03, f"{region}b": math.nan})}
    types = {name: InstanceType(name, 5, 2, 8192, "amd64", baseline=2) for name in names}
    with path.open("wb") as file:
        write(file, types, [RegionFacts(region, as_of, "test", names)])
    return path


NEWER, OLDER = date(2026, 11, 22), date(2026, 7, 19)


def test_a_newer_refreshed_file_is_used(tmp_path: Path) -> None:
    path = refresh(tmp_path, NEWER)
    found = find_catalog("us-east-1", tmp_path)
    assert (found.path, found.as_of, found.problem) == (path, NEWER, "")
    assert found.catalogue.names == ("m5.large",)
    assert found.catalogue.family.tolist() == ["m5"]
    assert found.age_days(date(2026, 12, 2)) == 10
    # The zones' own prices stand alone: zone b sells no spot.
    np.testing.assert_array_equal(found.catalogue.price_spot_zone, [[0.03, math.nan]])
    assert len(load_catalog("us-east-1", tmp_path)) == 1
    assert len(load_catalog("us-east-1")) > 800
    assert len(load_catalog("eu-west-1", tmp_path)) > 500  # has no file of its own


def test_an_older_refreshed_file_is_not_used(tmp_path: Path) -> None:
    refresh(tmp_path, OLDER)
    found = find_catalog("us-east-1", tmp_path)
    assert (found.path, found.problem) == (None, "")
    assert len(found.catalogue) > 800


def test_a_region_that_only_a_refresh_knows(tmp_path: Path) -> None:
    refresh(tmp_path, NEWER, "ap-east-2")
    assert "ap-east-2" in regions(tmp_path)
    assert "ap-east-2" not in regions()
    assert load_catalog("ap-east-2", tmp_path).zones == ("ap-east-2a", "ap-east-2b")


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "damaged"), (b"PK nonsense", "damaged"), (None, "positive"), ("cut", "damaged"), ("folder", "damaged")],
)
def test_a_broken_refreshed_file_is_told_of_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | str | None, why: str
) -> None:
    path = refresh(tmp_path, NEWER, **{"m5.large": Offer(-1.0, math.nan, {"us-east-1a": math.nan})})
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "folder":
        path.unlink()
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "cloud.catalog"):
        assert len(load_catalog("us-east-1", tmp_path)) > 800
    assert why in caplog.text
    assert str(path) in caplog.text
    assert "milpa catalog refresh --region us-east-1" in caplog.text


def test_a_broken_file_of_a_region_that_only_it_knows(tmp_path: Path) -> None:
    refreshed_file(tmp_path, "ap-east-2").write_bytes(b"")
    with pytest.raises(Invalid, match=r"refreshed catalogue not used.*catalog refresh --region ap-east-2"):
        load_catalog("ap-east-2", tmp_path)


def test_a_missing_folder_is_as_none(tmp_path: Path) -> None:
    assert regions(tmp_path / "none") == regions()
    assert len(load_catalog("us-east-1", tmp_path / "none")) > 800


def test_what_lives_long_sees_a_refresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    current = Current("us-east-1", tmp_path)
    shipped = current.get()
    assert len(shipped) > 800
    assert current.get() is shipped
    path = refresh(tmp_path, NEWER)
    assert current.get().names == ("m5.large",)
    assert current.get() is current.get()
    path.write_bytes(b"broken")
    assert current.get() is shipped
    assert "damaged" in caplog.text
    path.unlink()
    assert current.get() is shipped


def test_a_region_that_only_a_lost_file_knew_goes_on(tmp_path: Path) -> None:
    path = refresh(tmp_path, NEWER, "ap-east-9")
    current = Current("ap-east-9", tmp_path)
    before = current.get()
    path.unlink()
    assert current.get() is before
