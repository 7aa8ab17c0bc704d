"""Asks AWS's own APIs what a region offers today: types, zones, on-demand prices, and spot prices by zone.

``DescribeInstanceTypes``, ``DescribeInstanceTypeOfferings`` and ``DescribeSpotPriceHistory`` in the region,
``GetProducts`` where the price list is served. Every page is asked for again when it was throttled or lost, a bounded
number of times. Writes nothing: ``cloud.catalog_save`` does.
"""

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from cloud.aws import price_list
from cloud.aws.instance_facts import Unknown, instance_type
from cloud.catalog_file import InstanceType, Offer, RegionFacts
from milpa_ray.errors import CloudThrottled, CloudUnavailable, Invalid, Terminal, first_cause

TRIES = 7
"""Of each page; then the refresh fails."""
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 8.0
MAX_PAGES = 1_000
"""Of one listing; the longest of today has some 20."""
SOURCE = "AWS"
SPOT_PRODUCTS = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d{1,2}")

Progress = Callable[[str], None]
Pause = Callable[[float], Awaitable[None]]


class Caller(Protocol):
    """One region's APIs, such as an ``AwsSession``."""

    async def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]: ...


class Incomplete(Terminal):
    """AWS has answered, but what it told is no catalogue. The message says what lacks, and the remedy."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a region offers, with the facts of its types. ``left_out``: why a type that a zone offers is not in it."""

    facts: RegionFacts
    types: Mapping[str, InstanceType]
    left_out: Mapping[str, str]


def check_region(region: str) -> None:
    """Whether the region's prices can be asked for.

    Raises:
        Invalid: no; says why.
    """
    if not _REGION.fullmatch(region):
        raise Invalid(f"region: {region[:80]!r} is no region; write one such as 'us-east-1'")
    if region.startswith("cn-"):
        raise Invalid(f"region: prices of {region} are in yuan, the catalogue's are in US dollars: not supported")
    if region.startswith("us-gov-"):
        raise Invalid(
            f"region: a key of AWS GovCloud cannot ask AWS's price list, so {region} keeps the prices that are shipped"
        )


class Refresher:
    """Asks by ``callers``, which gives a region's APIs. ``known`` are the types that the catalogue has: of burstable
    types AWS's APIs don't tell all."""

    def __init__(
        self,
        callers: Callable[[str], Caller],
        known: Mapping[str, InstanceType],
        progress: Progress = lambda line: None,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._callers = callers
        self._known = known
        self._progress = progress
        self._pause = pause

    async def regions(self, region: str) -> list[str]:
        """The regions that the account has enabled and whose prices can be asked for; ``region`` is asked."""
        answer = await self._call(region, "ec2", "DescribeRegions", {})
        names = sorted(each["RegionName"] for each in answer.get("Regions", ()))
        return [name for name in names if not name.startswith(("cn-", "us-gov-"))]

    async def fetch(self, region: str, now: datetime) -> Fetched:
        """What ``region`` offers now.

        Raises:
            Invalid: its prices cannot be asked for. Incomplete: an answer was empty.
            CloudThrottled, CloudUnavailable: after ``TRIES``. CloudNotReady: no credentials or no permission.
            CloudRefused: AWS doesn't accept the call.
        """
        check_region(region)
        try:
            async with asyncio.TaskGroup() as group:
                told = group.create_task(self._types(region))
                zones = group.create_task(self._zones(region))
                spot = group.create_task(self._spot(region, now))
                prices = group.create_task(self._prices(region))
        except BaseExceptionGroup as failed:
            raise first_cause(failed) from None
        types, left_out = self._read(told.result())
        offers = {}
        for name, of_type in sorted(zones.result().items()):
            if name in types and name in prices.result():
                offers[name] = _offer(prices.result()[name], of_type, spot.result().get(name, {}))
            else:
                left_out.setdefault(name, "no price" if name in types else "no facts")
        if not offers:
            raise Incomplete(f"{region}: no instance type with a price and a zone was told of; try again later")
        self._say(region, f"{len(offers)} instance types with a price, {len(left_out)} left out")
        facts = RegionFacts(region, now.date(), SOURCE, offers)
        return Fetched(facts, {name: types[name] for name in offers}, left_out)

    # ------------------------------------------------------------ the four listings

    async def _types(self, region: str) -> list[Mapping[str, Any]]:
        told = [
            each
            async for page in self._pages(region, "ec2", "DescribeInstanceTypes", {"MaxResults": 100})
            for each in page["InstanceTypes"]
        ]
        return self._some(region, told, "instance types")

    async def _zones(self, region: str) -> dict[str, list[str]]:
        """Zones by type. Local and wavelength zones, whose prices are others, are left out."""
        asked = {"LocationType": "availability-zone", "MaxResults": 1000}
        found: dict[str, list[str]] = {}
        async for page in self._pages(region, "ec2", "DescribeInstanceTypeOfferings", asked):
            for each in page["InstanceTypeOfferings"]:
                if _is_zone(each["Location"], region):
                    found.setdefault(each["InstanceType"], []).append(each["Location"])
        self._some(region, [zone for zones in found.values() for zone in zones], "offers of types in zones")
        return found

    async def _spot(self, region: str, now: datetime) -> dict[str, dict[str, float]]:
        """The latest price by type and zone. None at all is possible: then no spot is known."""
        asked = {"StartTime": now, "ProductDescriptions": list(SPOT_PRODUCTS), "MaxResults": 1000}
        found: dict[str, dict[str, float]] = {}
        latest: dict[tuple[str, str], datetime] = {}
        async for page in self._pages(region, "ec2", "DescribeSpotPriceHistory", asked):
            for each in page["SpotPriceHistory"]:
                name, zone, price = each["InstanceType"], each.get("AvailabilityZone", ""), _number(each["SpotPrice"])
                if price > 0 and _is_zone(zone, region) and each["Timestamp"] >= latest.get((name, zone), _LONG_AGO):
                    latest[name, zone] = each["Timestamp"]
                    found.setdefault(name, {})[zone] = price
        self._say(region, f"{len(latest)} spot prices")
        return found

    async def _prices(self, region: str) -> dict[str, float]:
        """On-demand prices, from the nearest endpoint of the price list that answers."""
        endpoints = price_list.endpoints_for(region)
        for endpoint in endpoints:
            try:
                return await self._prices_at(endpoint, region)
            except CloudUnavailable as error:
                if endpoint == endpoints[-1]:
                    raise
                self._say(region, f"the price list in {endpoint} does not answer, asking elsewhere ({error})")
        raise AssertionError("there is always an endpoint")

    async def _prices_at(self, endpoint: str, region: str) -> dict[str, float]:
        asked = {"ServiceCode": price_list.SERVICE, "Filters": price_list.filters(region), "MaxResults": 100}
        products = [
            text async for page in self._pages(endpoint, "pricing", "GetProducts", asked) for text in page["PriceList"]
        ]
        found = price_list.prices(products)
        self._some(region, list(found), "on-demand prices")
        return found

    # ------------------------------------------------------------ asking

    async def _pages(
        self, region: str, service: str, operation: str, parameters: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        asked = dict(parameters)
        for _ in range(MAX_PAGES):
            page = await self._call(region, service, operation, asked)
            yield page
            if not page.get("NextToken"):
                return
            asked["NextToken"] = page["NextToken"]
        raise Incomplete(f"{region}: {service} {operation} has no end after {MAX_PAGES} pages; try again later")

    async def _call(self, region: str, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        for attempt in range(1, TRIES + 1):
            try:
                return await self._callers(region).call(service, operation, **parameters)
            except (CloudThrottled, CloudUnavailable):
                if attempt == TRIES:
                    raise
            longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
            await self._pause(random.uniform(longest / 2, longest))
        raise AssertionError("the last attempt returns or raises")

    def _read(self, told: list[Mapping[str, Any]]) -> tuple[dict[str, InstanceType], dict[str, str]]:
        types: dict[str, InstanceType] = {}
        unknown: dict[str, str] = {}
        for each in told:
            try:
                found = instance_type(each, self._known)
            except Unknown as error:
                unknown[str(each.get("InstanceType", ""))] = str(error)
            else:
                types[found.name] = found
        return types, unknown

    def _some(self, region: str, found: list[Any], what: str) -> list[Any]:
        """``found``, told of; none is an error."""
        if not found:
            raise Incomplete(f"{region}: AWS told of no {what}; try again later")
        self._say(region, f"{len(found)} {what}")
        return found

    def _say(self, region: str, line: str) -> None:
        self._progress(f"{region}: {line}")


_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _offer(on_demand: float, zones: list[str], spot: Mapping[str, float]) -> Offer:
    """The region's spot estimate is the mean of its zones."""
    by_zone = {zone: spot.get(zone, math.nan) for zone in zones}
    known = [price for price in by_zone.values() if not math.isnan(price)]
    return Offer(on_demand, sum(known) / len(known) if known else math.nan, by_zone)


def _is_zone(name: str, region: str) -> bool:
    """An ordinary zone: the region and one letter."""
    return name[: len(region)] == region and len(name) == len(region) + 1 and name[-1].isalpha()


def _number(text: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan
