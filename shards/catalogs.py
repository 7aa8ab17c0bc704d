"""What ``milpa catalog`` does: fetches a region's prices from AWS with the installation's credentials, and tells which
prices are in use, of which day. Starts nothing and needs nothing that runs.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from cloud.aws.pricing import Refresher, check_region
from cloud.aws.session import AwsSession, Credentials
from cloud.catalog import MAX_AGE_DAYS, find_catalog, known_types, regions
from cloud.catalog_save import save
from milpa_ray.clock import Clock, SystemClock
from milpa_ray.errors import Invalid, MilpaError
from milpa_ray.paths import Home
from milpa_ray.settings import Settings
from shards.layout import read_settings

FIRST_REGION = "us-east-1"
"""Asked for the list of regions when no region is set."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """The prices in use for a region. ``spot`` counts the types with a known spot price, ``spot_zones`` the zones'
    own prices. ``file`` is empty for the prices that are shipped; ``problem`` says why a refreshed file is not used."""

    region: str
    types: int
    zones: int
    spot: int
    source: str
    prices_as_of: str
    age_days: int
    old: bool
    file: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How a region's refresh went. ``problem`` empty: its file is replaced. ``left_out``: types that the region has but
    the catalogue lacks, with the reason."""

    region: str
    problem: str = ""
    types: int = 0
    file: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


def entries(home: Home, names: Sequence[str] = (), clock: Clock | None = None) -> list[Entry]:
    """The prices in use; of all regions when none are named.

    Raises:
        Invalid: a region is unknown.
    """
    today = (clock or SystemClock()).now().date()
    return [_entry(home, name, today) for name in names or regions(home.catalog)]


def _entry(home: Home, region: str, today: date) -> Entry:
    try:
        found = find_catalog(region, home.catalog)
    except Invalid as error:
        if region not in regions(home.catalog):
            raise
        return Entry(region, 0, 0, 0, "none", "", 0, True, problem=str(error))
    catalogue, age = found.catalogue, found.age_days(today)
    return Entry(
        region=region,
        types=len(catalogue),
        zones=len(catalogue.zones),
        spot=int((catalogue.price_spot > 0).sum()),
        source=found.source,
        prices_as_of=found.as_of.isoformat(),
        age_days=age,
        old=age > MAX_AGE_DAYS,
        file=str(found.path or ""),
        problem=found.problem,
    )


def age_warning(home: Home, settings: Settings, clock: Clock | None = None) -> str:
    """What is to be said of the prices in use: that they are old, or that the refreshed ones are broken. Empty when all
    is well, and on the local cloud, which bills nobody."""
    if settings.cloud.aws is None:
        return ""
    region = settings.cloud.aws.region
    entry = _entry(home, region, (clock or SystemClock()).now().date())
    if entry.problem:
        return entry.problem
    if not entry.old:
        return ""
    return f"prices of {region} are {entry.age_days} days old; 'milpa catalog refresh' fetches today's"


# ---------------------------------------------------------------- refreshing


def configured(home: Home, config_file: Path | None) -> Settings | None:
    """The installation's settings; None when there are none yet and none were named.

    Raises:
        Invalid: they are wrong.
    """
    path = config_file or home.server_yml
    return read_settings(home, path) if config_file or path.exists() else None


def refresh(
    home: Home,
    settings: Settings | None,
    names: Sequence[str],
    *,
    everything: bool = False,
    progress: Progress = lambda line: None,
) -> list[Refreshed]:
    """Fetches regions one after the other; one that fails does not keep the others from it. Without ``names`` the
    region of the settings or of AWS_REGION; with ``everything`` all regions that the account has enabled.

    Raises:
        Invalid: no region is named or set, or one cannot be refreshed.
        MilpaError: the list of regions could not be fetched; the part for AWS is not installed.
    """
    if find_spec("boto3") is None:
        raise MilpaError("boto3 is not installed; install Milpa's part for AWS: pip install 'milpa-ray[aws]'")
    region = settings.cloud.region if settings is not None else os.environ.get("AWS_REGION", "")
    wanted = list(dict.fromkeys(names)) or ([region] if region and not everything else [])
    if not wanted and not everything:
        raise Invalid("region: none is set; name one with --region, or all that your account has with --all")
    for name in wanted:
        check_region(name)
    return asyncio.run(_refresh(home, settings, wanted, region or FIRST_REGION, progress))


async def _refresh(
    home: Home, settings: Settings | None, wanted: list[str], asked: str, progress: Progress
) -> list[Refreshed]:
    aws = settings.cloud.aws if settings is not None else None
    credentials = Credentials(aws.access_key_id, aws.secret_access_key.get_secret_value()) if aws else Credentials()
    sessions: dict[str, AwsSession] = {}

    def session(region: str) -> AwsSession:
        if region not in sessions:
            sessions[region] = AwsSession(region, credentials)
        return sessions[region]

    refresher = Refresher(session, known_types(), progress)
    try:
        if not wanted:
            wanted = await refresher.regions(asked)
            progress(f"{len(wanted)} regions: {', '.join(wanted)}")
        return [await _refresh_one(home, refresher, region, progress) for region in wanted]
    finally:
        for each in sessions.values():
            each.close()


async def _refresh_one(home: Home, refresher: Refresher, region: str, progress: Progress) -> Refreshed:
    try:
        fetched = await refresher.fetch(region, SystemClock().now())
        found = save(home.catalog, fetched.facts, fetched.types)
    except MilpaError as error:
        return Refreshed(region, str(error))
    except OSError as error:
        return Refreshed(
            region,
            f"{error.filename or home.catalog}: {error.strerror}. Run milpa as the user that owns {home.root}, or make "
            "room there",
        )
    progress(f"{region}: wrote {found.path}")
    return Refreshed(region, "", len(found.catalogue), str(found.path), fetched.left_out)
