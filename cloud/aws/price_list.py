"""On-demand prices out of AWS's price list: which products to ask for, and what their offers say. Sends nothing."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

SERVICE = "AmazonEC2"
ENDPOINTS = ("us-east-1", "eu-central-1", "ap-south-1")
"""Regions where the price list can be asked; each knows the prices of all regions."""
_NEAREST = {"eu": "eu-central-1", "me": "eu-central-1", "il": "eu-central-1", "af": "eu-central-1", "ap": "ap-south-1"}
_PRODUCT = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
"""What an ordinary instance is called in the price list; for each type of a region there is one such product."""


def endpoints_for(region: str) -> tuple[str, ...]:
    """All of ``ENDPOINTS``, the nearest one first."""
    nearest = _NEAREST.get(region.partition("-")[0], ENDPOINTS[0])
    return (nearest, *(each for each in ENDPOINTS if each != nearest))


def filters(region: str) -> list[dict[str, str]]:
    """What ``GetProducts`` is asked for."""
    wanted = {"regionCode": region, **_PRODUCT}
    return [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]


def prices(products: Iterable[str]) -> dict[str, float]:
    """US dollars per hour by instance type. ``products`` are JSON texts as ``GetProducts`` returns them; those that are
    no instance type, or have no hourly price in US dollars, are passed over. Of several prices the lowest counts."""
    found: dict[str, float] = {}
    for text in products:
        try:
            product = json.loads(text)
            name = str(product["product"]["attributes"]["instanceType"])
            amounts = list(_hourly(product["terms"]["OnDemand"]))
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
        for amount in amounts:
            found[name] = min(amount, found.get(name, math.inf))
    return found


def _hourly(terms: Mapping[str, Any]) -> Iterable[float]:
    """Hourly prices of an offer, without those of 0 (what a reservation has paid for)."""
    for term in terms.values():
        for dimension in term["priceDimensions"].values():
            amount = float(dimension["pricePerUnit"].get("USD", "nan")) if dimension["unit"] == "Hrs" else math.nan
            if math.isfinite(amount) and amount > 0:
                yield amount
