"""Which prices are in use, and what is said of old or broken ones."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cloud.catalog import MAX_AGE_DAYS, find_catalog, known_types, refreshed_file
from cloud.catalog_file import Offer, RegionFacts
from cloud.catalog_save import save
from milpa_ray.errors import Invalid, MilpaError
from milpa_ray.paths import Home
from milpa_ray.settings import Settings, parse_settings
from shards.catalogs import age_warning, entries, refresh

REGION = "me-south-1"
DAY = date(2026, 11, 22)
AWS = f"{{aws: {{region: {REGION}}}}}"


class Day:
    """A clock at noon of a day."""

    def __init__(self, day: date) -> None:
        self._day = day

    def now(self) -> datetime:
        return datetime(self._day.year, self._day.month, self._day.day, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


def settings(cloud: str = AWS) -> Settings:
    return parse_settings(f"clusterName: test\ncloud: {cloud}\n", env={})


def refreshed(home: Home) -> None:
    shipped = find_catalog(REGION).catalogue
    offers = {
        name: Offer(shipped.price(name), 0.01, dict.fromkeys(shipped.zones_of(name), 0.01)) for name in shipped.names
    }
    save(home.catalog, RegionFacts(REGION, DAY, "AWS", offers), known_types())


def test_prices_are_old_after_90_days(tmp_path: Path) -> None:
    home = Home(tmp_path)
    refreshed(home)
    last_good = DAY + timedelta(MAX_AGE_DAYS)
    assert age_warning(home, settings(), Day(last_good)) == ""
    warning = age_warning(home, settings(), Day(last_good + timedelta(1)))
    assert warning == f"prices of {REGION} are 91 days old; 'milpa catalog refresh' fetches today's"
    fresh, old = (entries(home, [REGION], Day(day))[0] for day in (last_good, last_good + timedelta(1)))
    assert (fresh.old, old.old, old.age_days) == (False, True, 91)
    assert fresh.file == str(refreshed_file(home.catalog, REGION))


def test_the_shipped_prices_age_too(tmp_path: Path) -> None:
    shipped = find_catalog(REGION)
    assert "days old" in age_warning(Home(tmp_path), settings(), Day(shipped.as_of + timedelta(MAX_AGE_DAYS + 1)))
    # A clock that is behind makes no negative age.
    assert entries(Home(tmp_path), [REGION], Day(shipped.as_of - timedelta(9)))[0].age_days == 0


def test_a_broken_file_is_told_of_whatever_its_age(tmp_path: Path) -> None:
    home = Home(tmp_path)
    refreshed(home)
    refreshed_file(home.catalog, REGION).write_bytes(b"broken")
    assert "refreshed catalogue not used" in age_warning(home, settings(), Day(DAY))
    entry = entries(home, [REGION], Day(DAY))[0]
    assert (entry.source, entry.file) == ("shipped", "")
    assert "milpa catalog refresh" in entry.problem


def test_the_local_cloud_bills_nobody(tmp_path: Path) -> None:
    local = settings(f"{{local: {{region: {REGION}}}}}")
    assert age_warning(Home(tmp_path), local, Day(DAY + timedelta(9999))) == ""


def test_all_regions_are_shown_even_one_that_only_a_broken_file_names(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.catalog.mkdir()
    refreshed_file(home.catalog, "ap-east-9").write_bytes(b"broken")
    found = {entry.region: entry for entry in entries(home, clock=Day(DAY))}
    assert len(found) == 35
    assert (found["ap-east-9"].types, found["ap-east-9"].source) == (0, "none")
    assert "refresh --region ap-east-9" in found["ap-east-9"].problem
    with pytest.raises(Invalid, match="'us-east-9' is unknown"):
        entries(home, ["us-east-9"], Day(DAY))


def test_without_boto3_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.catalogs.find_spec", lambda name: None)
    with pytest.raises(MilpaError, match=r"pip install 'milpa-ray\[aws\]'"):
        refresh(Home(tmp_path), None, [REGION])
