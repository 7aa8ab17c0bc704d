"""Quantities: the grammar, its limits, and that text and number agree."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api import quantity
from milpa_ray.api.quantity import QuantityError

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
SUFFIXES = {suffix: Decimal(10) ** power for suffix, power in DECIMAL.items()}
SUFFIXES |= {suffix: Decimal(2) ** power for suffix, power in BINARY.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_scales(suffix: str) -> None:
    assert quantity.parse(f"1.5{suffix}") == Decimal("1.5") * SUFFIXES[suffix]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-3", -3), ("+3", 3), (".5", "0.5"), ("5.", 5), ("1e3", 1000), ("1E3", 1000), ("5e-3", "0.005")],
)
def test_plain_and_exponent_forms(text: str, value: int | str) -> None:
    assert quantity.parse(text) == Decimal(value)


def test_capital_e_alone_is_exa() -> None:
    assert quantity.parse("5E") == 5 * 10**18


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 Gi", "Gi", "1GB", "1gi", "1KI", "1e", "1e3Mi", "0x10", "1_000", "nan", "inf", "--1", "1.2.3", "١"],
)
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(QuantityError, match=r"such as '0\.5', '500m', '2Gi'"):
        quantity.parse(text)


@pytest.mark.parametrize("text", ["8Ei", "1e999", "9223372036854775808", "-1e20"])
def test_beyond_64_bits_is_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="too large"):
        quantity.parse(text)


def test_the_greatest_quantity_is_taken() -> None:
    assert quantity.to_bytes("9223372036854775807") == 2**63 - 1


def test_hostile_lengths_are_refused() -> None:
    with pytest.raises(QuantityError):
        quantity.parse("9" * 1_000_000)


def test_bytes_are_rounded_up() -> None:
    assert quantity.to_bytes("100m") == 1
    assert quantity.to_bytes("2Gi") == 2 * 1024**3
    assert quantity.to_bytes("") == 0


def test_cores() -> None:
    assert quantity.to_cores("500m") == 0.5
    assert quantity.to_cores("2") == 2.0
    assert quantity.to_cores("") == 0.0


def test_counts_are_whole() -> None:
    assert quantity.to_count("2") == 2
    assert quantity.to_count("2000m") == 2
    with pytest.raises(QuantityError, match="whole number"):
        quantity.to_count("1.5")


@pytest.mark.parametrize("convert", [quantity.to_bytes, quantity.to_cores, quantity.to_count])
def test_negative_amounts_are_refused(convert: object) -> None:
    assert callable(convert)
    with pytest.raises(QuantityError, match="negative"):
        convert("-1")


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_formatted_bytes_parse_back(count: int) -> None:
    assert quantity.to_bytes(quantity.format_bytes(count)) == count


@given(st.integers(0, 1000), st.sampled_from(sorted(SUFFIXES)), st.integers(0, 1000), st.sampled_from(sorted(SUFFIXES)))
def test_order_of_text_is_order_of_value(a: int, sa: str, b: int, sb: str) -> None:
    x, y = a * SUFFIXES[sa], b * SUFFIXES[sb]
    if max(x, y) <= quantity.MAX:
        assert (quantity.parse(f"{a}{sa}") < quantity.parse(f"{b}{sb}")) == (x < y)


@given(st.text(max_size=50))
def test_any_text_gives_a_number_or_a_quantity_error(text: str) -> None:
    try:
        value = quantity.parse(text)
    except QuantityError:
        return
    assert abs(value) <= quantity.MAX
