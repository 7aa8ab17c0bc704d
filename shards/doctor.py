"""Whether this machine and the cloud can run Milpa, check by check, with the remedy for each. Looks only and changes
nothing."""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloud.catalog import find_catalog, regions
from cloud.local import preflight
from milpa_ray.api.schema import suggest
from milpa_ray.clock import SystemClock
from milpa_ray.errors import Invalid, MilpaError
from milpa_ray.settings import Local, Settings
from milpa_ray.store.etcd_binary import etcd_version, find_etcd, may_corrupt
from shards.installation import Installation

MIN_FREE_BYTES = 1 << 30
CONNECT_TIMEOUT_S = 2.0
_REGION = "region"
"""The check without which nothing of the cloud can be asked."""
_RUNNING = "server"
"""The check that tells what runs already."""
_ADVICE = frozenset({"memory"})
"""Checks of the local cloud that warn only: what is free now says little of what pods will need."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check. ``essential``: Milpa does not start without it. ``remedy`` is empty when ``ok``."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    essential: bool = True


class NotFit(MilpaError):
    """Something essential is missing; one line for each, with the remedy."""


def require(installation: Installation) -> list[Check]:
    """The essential checks. Answers the others that failed, for people to know.

    Raises:
        NotFit: some of the essential ones failed.
    """
    found = [check for check in examine(installation) if not check.ok]
    failed = [check for check in found if check.essential]
    if failed:
        raise NotFit("\n".join(f"{check.name}: {check.detail}\n  remedy: {check.remedy}" for check in failed))
    return [check for check in found if check.name != _RUNNING]


def examine(installation: Installation, *, cloud: str = "", thorough: bool = False) -> list[Check]:
    """All checks, or with ``cloud`` (aws or local) those of that cloud only. Those that need settings are left out
    while the settings are wrong. ``thorough``: also those that a start does without, such as each permission."""
    found = [] if cloud else [*_python(), *_home(installation)]
    try:
        settings = installation.settings
    except MilpaError as error:
        makes = not installation.options.config_file and not installation.config_file.exists()
        remedy = "milpa up makes it" if makes else f"correct {installation.config_file}"
        return [*found, Check("settings", False, str(error), remedy)]
    found.append(Check("settings", True, f"{installation.config_file}: cluster {settings.cluster_name}"))
    chosen = "aws" if settings.cloud.aws is not None else "local"
    if cloud not in ("", chosen):
        remedy = f"set cloud.{cloud} there, or name another file with --config"
        return [*found, Check("cloud", False, f"{installation.config_file} chooses {chosen}, not {cloud}", remedy)]
    check_cloud = partial(_aws, thorough=thorough) if chosen == "aws" else _local
    found += (prices := list(_catalogue(installation, settings)))
    steps: list[Callable[[Installation, Settings], Iterator[Check]]] = [_etcd]
    if all(check.name != _REGION for check in prices):
        steps.append(check_cloud)
    if not cloud:
        steps += [_files, _api_port, _running]
    for step in steps:
        found += step(installation, settings)
    return found


def _python() -> Iterator[Check]:
    version = sys.version.split()[0]
    ok = sys.version_info >= (3, 11)
    yield Check("python", ok, version, "" if ok else "use Python 3.11 or newer")
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        yield Check("ray", True, version_of("ray"))
    except PackageNotFoundError:
        yield Check("ray", False, "not installed", "pip install 'milpa-ray[server]'")


def _home(installation: Installation) -> Iterator[Check]:
    root = installation.home.root
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    writable = os.access(place, os.W_OK)
    remedy = "" if writable else "run milpa as root, or choose another place with --home or MILPA_HOME"
    yield Check("home", writable, f"{root} is {'' if writable else 'not '}writable", remedy)
    free = shutil.disk_usage(place).free
    ok = free >= MIN_FREE_BYTES
    yield Check("disk", ok, f"{free >> 20} MiB free", "" if ok else f"make room below {place}", essential=False)


def _etcd(installation: Installation, settings: Settings) -> Iterator[Check]:
    endpoints = settings.etcd.client.endpoints
    if endpoints:
        for endpoint in endpoints:
            ok = _connects(endpoint)
            remedy = "" if ok else "start that etcd, or correct etcd.client.endpoints"
            detail = f"{endpoint} {'takes connections' if ok else 'does not answer'}"
            yield Check("etcd", ok, detail, remedy, essential=len(endpoints) == 1)
        return
    try:
        path = find_etcd()
        version = etcd_version(path)
    except MilpaError as error:
        yield Check("etcd", False, str(error), "apt-get install etcd-server")
        return
    bad = may_corrupt(version)
    detail = f"{version} at {path}" + (": can corrupt its data when it is killed" if bad else "")
    yield Check("etcd", not bad, detail, "use 3.5.3 or newer, or 3.4" if bad else "", essential=False)


def _catalogue(installation: Installation, settings: Settings) -> Iterator[Check]:
    """What of the settings the catalogue does not know; asks nobody. Controllers cannot start with a wrong region."""
    region, default = settings.cloud.region, settings.nodes.default_instance_type
    setting = "cloud.aws.region" if settings.cloud.aws is not None else "cloud.local.region"
    try:
        found = find_catalog(region, installation.home.catalog)
    except Invalid as error:
        remedy = f"correct {setting}, or 'milpa catalog refresh --region {region}' if AWS has it"
        told = str(error).removeprefix("region: ")
        if near := suggest(region, regions(installation.home.catalog)):
            told = f"{region[:80]!r} is unknown{near}"
        yield Check(_REGION, False, f"{setting}: {told}", remedy)
        return
    names = found.catalogue.names
    if default not in names:
        detail = f"nodes.defaultInstanceType {default} is not offered in {region}{suggest(default, names)}"
        remedy = "name one of 'milpactl explain', or 'milpa catalog refresh' if the type is new"
        yield Check("default type", False, detail, remedy)


def _aws(installation: Installation, settings: Settings, *, thorough: bool) -> Iterator[Check]:
    from cloud.aws import doctor

    folder = installation.home.catalog
    for found in asyncio.run(doctor.examine(settings, SystemClock(), folder, thorough=thorough)):
        yield Check(found.name, found.ok, found.detail, found.remedy, found.essential)


def _local(installation: Installation, settings: Settings) -> Iterator[Check]:
    local = settings.cloud.local or Local()
    for found in preflight.check(local.bridge, local.subnet, str(installation.home.local.absolute())):
        yield Check(found.name, found.ok, found.detail, found.remedy, essential=found.name not in _ADVICE)


def _files(installation: Installation, settings: Settings) -> Iterator[Check]:
    name = settings.nodes.cloud_init_file
    if name:
        ok = os.access(name, os.R_OK)
        remedy = "" if ok else "make it, or leave nodes.cloudInitFile out"
        yield Check("cloud-init", ok, f"{name} is {'' if ok else 'not '}readable", remedy)


def _api_port(installation: Installation, settings: Settings) -> Iterator[Check]:
    host, port = settings.controllers.api_host, settings.controllers.api_port
    if installation.ray.is_running():
        return  # ours holds it; whether it answers is told below
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "end what listens there (ss -ltnp), or set controllers.apiPort"
            yield Check("API port", False, f"{host}:{port}: {error.strerror}", remedy)
        else:
            yield Check("API port", True, f"{port} is free")


def _running(installation: Installation, settings: Settings) -> Iterator[Check]:
    """What runs, if anything does: nothing is no fault."""
    states = installation.daemons()
    running = [name for name, state in states.items() if state != "stopped"]
    if not running:
        yield Check(_RUNNING, True, "not running", essential=False)
        return
    port = settings.controllers.api_port
    answers = _connects(f"127.0.0.1:{port}")
    stopped = sorted(set(states) - set(running))
    detail = f"running: {', '.join(running)}" + (f"; stopped: {', '.join(stopped)}" if stopped else "")
    ok = answers and not stopped
    detail += "" if answers else f"; the API port {port} does not answer"
    yield Check(_RUNNING, ok, detail, "" if ok else f"milpa up (logs: {installation.home.log})", essential=False)


def _connects(endpoint: str) -> bool:
    host, _, port = Path(endpoint.rstrip("/")).name.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False
