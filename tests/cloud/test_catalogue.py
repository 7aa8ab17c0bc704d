"""The price catalogue: figures that anybody can look up, and what is left out."""

import math
import time

import numpy as np
import pytest

from cloud.catalogue import load_catalogue, regions
from milpa_ray.errors import Invalid
from milpa_ray.planner.catalogue import Catalogue


@pytest.fixture(scope="module")
def virginia() -> Catalogue:
    return load_catalogue("us-east-1")


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
    catalogue = load_catalogue(region)
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
    catalogue = load_catalogue("us-gov-west-1")
    assert catalogue.zones == ()
    assert catalogue.zones_of("m5.large") == ()
    assert math.isnan(catalogue.price("m5.large", spot=True))


def test_an_unknown_region_names_the_known_ones() -> None:
    with pytest.raises(Invalid, match=r"'us-east-9'.*us-east-1"):
        load_catalogue("us-east-9")


def test_loading_is_fast() -> None:
    def cost() -> float:
        load_catalogue.cache_clear()
        began = time.process_time()
        load_catalogue("us-east-1")
        return time.process_time() - began

    assert min(cost() for _ in range(3)) < 0.05
