"""What moto lacks of the APIs that a catalogue is refreshed from, as a server before moto: the price list, listings in
pages, and spot prices that differ by zone.

The price list is that of the shipped data, with decoys (other systems, tenancies and capacity states at half the
price) that only the right filters keep out, and records that make no sense.
"""

import base64
import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3

from cloud.catalog import find_catalog
from tests.aws.calls import Answer, Call, parse_call, refusal
from tests.aws.moto_server import MotoServer

_SETS = {
    "DescribeInstanceTypes": "instanceTypeSet",
    "DescribeInstanceTypeOfferings": "instanceTypeOfferingSet",
    "DescribeSpotPriceHistory": "spotPriceHistorySet",
}
OLD_SPOT_PRICE = 99.0
"""What the spot history says besides, of an earlier day: it must not count."""
_DECOYS = (
    {"operatingSystem": "Windows"},
    {"tenancy": "Dedicated"},
    {"capacitystatus": "AllocatedCapacityReservation"},
    {"preInstalledSw": "SQL Web"},
)
_PRODUCT = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}


def spot_price(instance_type: str, zone: str) -> float:
    """What the history says of a zone: 0.001 times the number of its letter, and more for longer names."""
    return round(0.001 * (ord(zone[-1]) - ord("a") + 1) + 0.01 * len(instance_type), 6)


@contextmanager
def serving(folder: Path) -> Iterator["CatalogApi"]:
    """Moto with such a server before it; moto's log is in ``folder``."""
    moto = MotoServer(folder / "moto.log")
    try:
        api = CatalogApi(moto.start().url).start()
        try:
            yield api
        finally:
            api.stop()
    finally:
        moto.stop()


class CatalogApi:
    """``start()``, use ``url`` as the endpoint, ``stop()``. ``factor`` multiplies all on-demand prices;
    ``enabled`` are the account's regions, empty: all."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, timeout=60.0)
        self._lock = threading.Lock()
        self._listings: dict[tuple[str, str], ET.Element] = {}
        self._types: ET.Element | None = None
        self.factor = 1.0
        self.enabled: tuple[str, ...] = ()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> "CatalogApi":
        threading.Thread(target=self._server.serve_forever, name="catalog-api", daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._pool.clear()

    def handle(self, call: Call) -> Answer:
        with self._lock:
            if call.service == "pricing":
                return self._get_products(call)
            if call.action in _SETS:
                return self._page(call)
            if call.action == "DescribeRegions":
                return self._regions(call)
        return self._forward(call)

    def _regions(self, call: Call) -> Answer:
        whole = ET.fromstring(self._forward(call).body)
        listing = _listing(whole, "regionInfo")
        for item in list(listing):
            if self.enabled and not any(child.text in self.enabled for child in item):
                listing.remove(item)
        return Answer(200, ET.tostring(whole), (("Content-Type", "text/xml;charset=UTF-8"),))

    # ------------------------------------------------------------ the price list

    def _get_products(self, call: Call) -> Answer:
        asked = json.loads(call.body)
        if call.action != "GetProducts" or asked["ServiceCode"] != "AmazonEC2":
            return refusal(call, "InvalidParameterException", "unknown service")
        wanted = {each["Field"]: each["Value"] for each in asked["Filters"] if each["Type"] == "TERM_MATCH"}
        fitting = [
            text
            for attributes, text in self._price_list(wanted["regionCode"])
            if all(attributes.get(name, value) == value for name, value in wanted.items())
        ]
        begin, size = _offset(asked.get("NextToken")), int(asked.get("MaxResults", 100))
        told: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": fitting[begin : begin + size]}
        if begin + size < len(fitting):
            told["NextToken"] = _token(begin + size)
        return Answer(200, json.dumps(told).encode(), (("Content-Type", "application/x-amz-json-1.1"),))

    def _price_list(self, region: str) -> Iterator[tuple[dict[str, str], str]]:
        catalogue = find_catalog(region).catalogue
        for name in catalogue.names:
            price = catalogue.price(name) * self.factor
            plain = {"instanceType": name, "regionCode": region, **_PRODUCT}
            yield plain, _product(plain, price)
            for changed in _DECOYS:
                yield plain | changed, _product(plain | changed, price / 2)
        for text in ("{", "[]", '{"product": {}}', '{"product": {"attributes": {"instanceType": "t3.nano"}}}'):
            yield {}, text

    # ------------------------------------------------------------ EC2's listings, in pages

    def _page(self, call: Call) -> Answer:
        whole = self._whole(call)
        listing = _listing(whole, _SETS[call.action])
        begin = _offset(call.parameters.get("NextToken"))
        end = begin + int(call.parameters.get("MaxResults", 1_000_000))
        page = ET.Element(whole.tag)
        ET.SubElement(page, listing.tag).extend(list(listing)[begin:end])
        if end < len(listing):
            ET.SubElement(page, listing.tag.replace(_SETS[call.action], "nextToken")).text = _token(end)
        return Answer(200, ET.tostring(page), (("Content-Type", "text/xml;charset=UTF-8"),))

    def _whole(self, call: Call) -> ET.Element:
        """All of a listing: what moto said once."""
        key = (call.action, call.region)
        if key not in self._listings:
            self._listings[key] = self._told(call)
        return self._listings[key]

    def _told(self, call: Call) -> ET.Element:
        if call.action == "DescribeInstanceTypes":
            if self._types is None:
                self._types = ET.fromstring(self._forward(call).body)
            return _offered_in(self._types, call.region)
        whole = ET.fromstring(self._forward(call).body)
        if call.action == "DescribeSpotPriceHistory":
            _vary(_listing(whole, _SETS[call.action]))
        return whole

    def _forward(self, call: Call) -> Answer:
        headers = {name: value for name, value in call.headers.items() if name not in ("host", "content-length")}
        answer = self._pool.request(call.method, self._upstream + call.path, body=call.body, headers=headers)
        return Answer(answer.status, answer.data, (("Content-Type", answer.headers.get("Content-Type", "")),))


def _offered_in(types: ET.Element, region: str) -> ET.Element:
    """Moto tells the types of all regions; AWS those of the region asked, and some that it has no price for here."""
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

    offered = {each["InstanceType"] for each in INSTANCE_TYPE_OFFERINGS["region"][region]}
    listing = _listing(types, _SETS["DescribeInstanceTypes"])
    whole = ET.Element(types.tag)
    kept = ET.SubElement(whole, listing.tag)
    for item in listing:
        if any(child.tag.endswith("instanceType") and child.text in offered for child in item):
            kept.append(item)
    return whole


def _vary(history: ET.Element) -> None:
    """Moto says one price for all; and history has more than the latest."""
    for item in list(history):
        fields = {child.tag.rpartition("}")[2]: child for child in item}
        name, zone = fields["instanceType"].text or "", fields["availabilityZone"].text or ""
        fields["spotPrice"].text = str(spot_price(name, zone))
        fields["timestamp"].text = "2026-11-22T10:00:00.000Z"
        if zone.endswith("a"):
            for place in (0, len(history)):
                history.insert(place, _older(item))


def _older(item: ET.Element) -> ET.Element:
    copy = ET.fromstring(ET.tostring(item))
    for child in copy:
        if child.tag.endswith("spotPrice"):
            child.text = str(OLD_SPOT_PRICE)
        if child.tag.endswith("timestamp"):
            child.text = "2026-11-21T10:00:00.000Z"
    return copy


def _listing(whole: ET.Element, name: str) -> ET.Element:
    return next(child for child in whole if child.tag.endswith(name))


def _product(attributes: dict[str, str], price: float) -> str:
    """As the price list writes it: the offer's codes are arbitrary, and a reservation's terms stand beside."""
    dimension = {"unit": "Hrs", "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": f"{price:.10f}"}}
    once = {"unit": "Quantity", "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": "0.0001"}}
    free = {**dimension, "pricePerUnit": {"USD": "0.0000000000"}}
    terms = {
        "OnDemand": {"SKU.JRTCKXETXF": {"priceDimensions": {"SKU.JRTCKXETXF.6YS6EN2CT7": dimension}, "sku": "SKU"}},
        "Reserved": {"SKU.38NPMPTW36": {"priceDimensions": {"SKU.38NPMPTW36.2TG2D8R56U": once, "SKU.X": free}}},
    }
    return json.dumps({"product": {"attributes": attributes, "sku": "SKU"}, "serviceCode": "AmazonEC2", "terms": terms})


def _offset(token: str | None) -> int:
    return int(base64.b64decode(token)) if token else 0


def _token(offset: int) -> str:
    return base64.b64encode(str(offset).encode()).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: CatalogApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.api.handle(parse_call(self.command, self.path, headers, body))
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_args: Any) -> None:
        """Keeps quiet."""
