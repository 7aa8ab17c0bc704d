"""A region's facts out of AWS's APIs: moto tells types and zones, a server before it the prices; then the same when
AWS throttles, refuses, or has nothing to tell.
"""

import math
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from cloud.aws.pricing import FIRST_PAUSE_S, MAX_PAGES, MAX_PAUSE_S, TRIES, Incomplete, Refresher, check_region
from cloud.aws.session import AwsSession, Credentials
from cloud.catalog import find_catalog, known_types
from milpa_ray.errors import CloudNotReady, CloudRefused, CloudThrottled, CloudUnavailable, Invalid
from tests.aws.catalog_api import CatalogApi, serving, spot_price
from tests.aws.proxy import AwsProxy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogApi]:
    with serving(tmp_path_factory.mktemp("moto")) as served:
        yield served


@pytest.fixture
def proxy(api: CatalogApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsProxy]:
    made = AwsProxy(api.url).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    try:
        yield made
    finally:
        made.stop()


class Bench:
    """A refresher over real sessions; pauses are written down instead of waited."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pauses: list[float] = []
        self._sessions: dict[str, AwsSession] = {}
        self.refresher = Refresher(self.session, known_types(), self.lines.append, self.pause)

    def session(self, region: str) -> AwsSession:
        if region not in self._sessions:
            self._sessions[region] = AwsSession(region, Credentials("testing", "testing"))
        return self._sessions[region]

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    @property
    def asked(self) -> set[str]:
        return set(self._sessions)


@pytest_asyncio.fixture
async def bench(proxy: AwsProxy) -> AsyncIterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.close()


async def test_what_aws_tells_is_what_the_shipped_data_say(bench: Bench, proxy: AwsProxy) -> None:
    fetched = await bench.refresher.fetch("us-west-1", NOW)
    shipped, known = find_catalog("us-west-1").catalogue, known_types()
    assert fetched.facts.as_of == NOW.date()
    assert set(fetched.facts.offers) == set(shipped.names)
    for name, offer in fetched.facts.offers.items():
        assert fetched.types[name] == known[name]
        assert tuple(sorted(offer.zones)) == shipped.zones_of(name)
        assert offer.on_demand == pytest.approx(shipped.price(name))
        assert offer.zones == {zone: pytest.approx(spot_price(name, zone)) for zone in offer.zones}
        assert offer.spot == pytest.approx(sum(offer.zones.values()) / len(offer.zones))
    assert (fetched.types["t3.nano"].baseline, fetched.types["c7i-flex.large"].baseline) == (0.1, 0.8)
    assert "baseline is not known" in fetched.left_out["t8i.micro"]
    assert fetched.left_out["m8i.large"] == "no price"
    # Each page once, and the price list at the nearest endpoint.
    counts = proxy.counts()
    assert counts["DescribeInstanceTypes"] == math.ceil(672 / 100)
    assert counts["DescribeInstanceTypeOfferings"] == math.ceil(1343 / 1000)
    assert counts["GetProducts"] == math.ceil(517 / 100)
    assert bench.asked == {"us-west-1", "us-east-1"}
    assert "us-west-1: 517 on-demand prices" in bench.lines
    assert not bench.pauses


async def test_throttled_and_lost_calls_are_made_again(bench: Bench, proxy: AwsProxy) -> None:
    proxy.fail("GetProducts", "ThrottlingException", times=3, skip=1)
    proxy.fail("DescribeInstanceTypes", "RequestLimitExceeded", times=2, skip=2)
    proxy.fail("DescribeSpotPriceHistory", "InternalError")
    proxy.lose_response("DescribeInstanceTypeOfferings")
    fetched = await bench.refresher.fetch("me-south-1", NOW)
    assert set(fetched.facts.offers) == set(find_catalog("me-south-1").catalogue.names)
    assert len(bench.pauses) == 7
    assert all(FIRST_PAUSE_S / 2 <= pause <= MAX_PAUSE_S for pause in bench.pauses)


async def test_tries_are_bounded(bench: Bench, proxy: AwsProxy) -> None:
    proxy.fail("DescribeInstanceTypeOfferings", "RequestLimitExceeded", times=None)
    with pytest.raises(CloudThrottled, match="DescribeInstanceTypeOfferings: RequestLimitExceeded"):
        await bench.refresher.fetch("me-south-1", NOW)
    assert proxy.counts()["DescribeInstanceTypeOfferings"] == TRIES


@pytest.mark.parametrize(
    ("action", "code", "error", "words"),
    [
        ("DescribeInstanceTypes", "UnauthorizedOperation", CloudNotReady, "DescribeInstanceTypes.*docs/aws.md"),
        ("GetProducts", "AccessDeniedException", CloudNotReady, "GetProducts.*docs/aws.md"),
        ("DescribeSpotPriceHistory", "AuthFailure", CloudNotReady, "AuthFailure.*accessKeyID"),
        ("DescribeInstanceTypes", "OptInRequired", CloudNotReady, "cannot be used"),
        ("DescribeInstanceTypes", "InvalidParameterValue", CloudRefused, "InvalidParameterValue"),
    ],
)
async def test_what_asking_again_does_not_mend_is_asked_once(
    bench: Bench, proxy: AwsProxy, action: str, code: str, error: type[Exception], words: str
) -> None:
    proxy.fail(action, code, times=None)
    with pytest.raises(error, match=words):
        await bench.refresher.fetch("me-south-1", NOW)
    assert proxy.counts()[action] == 1


async def test_another_endpoint_of_the_price_list_is_asked_when_one_is_down(bench: Bench, proxy: AwsProxy) -> None:
    proxy.fail("GetProducts", "ServiceUnavailable", times=None, fits=lambda call: call.region != "us-east-1")
    fetched = await bench.refresher.fetch("me-south-1", NOW)
    assert len(fetched.facts.offers) == len(find_catalog("me-south-1").catalogue)
    assert bench.asked == {"me-south-1", "eu-central-1", "us-east-1"}
    assert sum("asking elsewhere" in line for line in bench.lines) == 1


async def test_the_accounts_regions(bench: Bench) -> None:
    names = await bench.refresher.regions("us-east-1")
    assert "eu-west-1" in names
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("region", "words"),
    [("cn-north-1", "yuan"), ("us-gov-west-1", "GovCloud"), ("../etc", "no region"), ("", "no region")],
)
def test_regions_that_cannot_be_asked_for(region: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check_region(region)


# ---------------------------------------------------------------- answers that no real server would give


class Scripted:
    """Answers each operation with the same page for ever."""

    def __init__(self, **pages: dict[str, Any]) -> None:
        self.pages = {
            "DescribeInstanceTypes": {"InstanceTypes": [LARGE]},
            "DescribeInstanceTypeOfferings": {
                "InstanceTypeOfferings": [
                    {"InstanceType": "m5.large", "Location": zone}
                    for zone in ("us-east-1b", "us-east-1-bos-1a", "us-east-1a")
                ]
            },
            "DescribeSpotPriceHistory": {"SpotPriceHistory": [spot("us-east-1a", "0.03"), spot("us-east-1b", "-1")]},
            "GetProducts": {"PriceList": [PRODUCT]},
        } | pages
        self.calls = 0

    async def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        self.calls += 1
        return self.pages[operation]


LARGE = {
    "InstanceType": "m5.large",
    "VCpuInfo": {"DefaultVCpus": 2},
    "MemoryInfo": {"SizeInMiB": 8192},
    "ProcessorInfo": {"SupportedArchitectures": ["i386", "x86_64"]},
}
PRODUCT = (
    '{"product": {"attributes": {"instanceType": "m5.large"}}, "terms": {"OnDemand": {"a": {"priceDimensions": {"b":'
    ' {"unit": "Hrs", "pricePerUnit": {"USD": "0.096"}}}}}}}'
)


def spot(zone: str, price: str) -> dict[str, Any]:
    return {"InstanceType": "m5.large", "AvailabilityZone": zone, "SpotPrice": price, "Timestamp": NOW}


async def test_local_zones_and_senseless_prices_do_not_count() -> None:
    fetched = await Refresher(lambda region: Scripted(), {}).fetch("us-east-1", NOW)
    offer = fetched.facts.offers["m5.large"]
    assert sorted(offer.zones) == ["us-east-1a", "us-east-1b"]
    assert (offer.zones["us-east-1a"], offer.spot) == (0.03, 0.03)
    assert math.isnan(offer.zones["us-east-1b"])


async def test_no_spot_at_all_is_no_error() -> None:
    scripted = Scripted(DescribeSpotPriceHistory={"SpotPriceHistory": []})
    fetched = await Refresher(lambda region: scripted, {}).fetch("us-east-1", NOW)
    assert math.isnan(fetched.facts.offers["m5.large"].spot)


@pytest.mark.parametrize(
    "pages",
    [
        {"DescribeInstanceTypes": {"InstanceTypes": []}},
        {"DescribeInstanceTypeOfferings": {"InstanceTypeOfferings": []}},
        {"GetProducts": {"PriceList": []}},
        {"GetProducts": {"PriceList": [PRODUCT.replace("m5.large", "m6.large")]}},
    ],
)
async def test_an_empty_listing_is_no_catalogue(pages: dict[str, Any]) -> None:
    with pytest.raises(Incomplete, match=r"us-east-1: .*try again later"):
        await Refresher(lambda region: Scripted(**pages), {}).fetch("us-east-1", NOW)


async def test_a_listing_without_end_is_given_up() -> None:
    scripted = Scripted(DescribeInstanceTypes={"InstanceTypes": [LARGE], "NextToken": "again"})
    with pytest.raises(Incomplete, match="no end"):
        await Refresher(lambda region: scripted, {}).fetch("us-east-1", NOW)
    assert scripted.calls <= MAX_PAGES + 3


async def test_an_unreachable_cloud_is_told_after_bounded_tries() -> None:
    class Down:
        calls = 0

        async def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
            self.calls += 1
            raise CloudUnavailable(f"{service} {operation}: nobody answers")

    async def pause(seconds: float) -> None:
        pass

    down = Down()
    with pytest.raises(CloudUnavailable, match="nobody answers"):
        await Refresher(lambda region: down, {}, pause=pause).fetch("us-east-1", NOW)
    assert down.calls <= 6 * TRIES
