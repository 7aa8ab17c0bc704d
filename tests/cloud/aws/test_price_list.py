"""Prices out of the price list's documents."""

import json
from typing import Any

import pytest

from cloud.aws.price_list import ENDPOINTS, endpoints_for, filters, prices


def product(name: str, *dimensions: dict[str, Any]) -> str:
    terms = {"OnDemand": {f"t{i}": {"priceDimensions": {"d": each}} for i, each in enumerate(dimensions)}}
    return json.dumps({"product": {"attributes": {"instanceType": name}}, "terms": terms})


def hourly(usd: str, unit: str = "Hrs") -> dict[str, Any]:
    return {"unit": unit, "pricePerUnit": {"USD": usd}}


def test_the_lowest_hourly_price_in_dollars_counts() -> None:
    texts = [
        product("m5.large", hourly("0.1"), hourly("0.0960000000")),
        product("m5.large", hourly("0.0000000000"), hourly("0.01", "Quantity")),
        product("c5.large", hourly("0.085")),
    ]
    assert prices(texts) == {"m5.large": 0.096, "c5.large": 0.085}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"product": {"attributes": {"instanceType": "m5.large"}}, "terms": {}}',
        '{"product": {"attributes": {"instanceType": "m5.large"}}, "terms": {"OnDemand": []}}',
        product("m5.large", {"unit": "Hrs", "pricePerUnit": {"CNY": "1"}}),
        product("m5.large", hourly("cheap")),
        product("m5.large", hourly("NaN")),
        product("m5.large", hourly("Infinity")),
        product("m5.large", hourly("-1")),
    ],
)
def test_what_has_no_such_price_is_passed_over(text: str) -> None:
    assert prices([text, product("c5.large", hourly("0.085"))]) == {"c5.large": 0.085}


@pytest.mark.parametrize(
    ("region", "nearest"),
    [("us-west-2", "us-east-1"), ("eu-west-3", "eu-central-1"), ("ap-south-2", "ap-south-1"), ("zz-x-1", "us-east-1")],
)
def test_the_nearest_endpoint_is_asked_first_then_all_others(region: str, nearest: str) -> None:
    assert endpoints_for(region)[0] == nearest
    assert sorted(endpoints_for(region)) == sorted(ENDPOINTS)


def test_the_filters_name_the_region_and_an_ordinary_linux_instance() -> None:
    asked = {each["Field"]: each["Value"] for each in filters("eu-west-3")}
    assert asked["regionCode"] == "eu-west-3"
    assert (asked["operatingSystem"], asked["tenancy"], asked["capacitystatus"]) == ("Linux", "Shared", "Used")
