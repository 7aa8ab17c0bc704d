"""Whether Milpa can work in this AWS account, check by check, with the remedy for each; for ``milpa doctor``.

Looks only and changes nothing. What AWS answers is never raised: a check that cannot be made is one that failed. The
checks of what instances are launched into are in ``doctor_network``, the calls that try permissions in ``permissions``.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cloud.aws.cluster_lock import DEAD_AFTER, TABLE, ClusterLock
from cloud.aws.doctor_network import check_images, check_route, check_subnets, check_vpc
from cloud.aws.errors import CREDENTIAL_REMEDY, CloudForbidden, SdkMisconfigured
from cloud.aws.findings import POLICY_REMEDY, Finding, Survey, bad, good, hint
from cloud.aws.groups import MAX_GROUPS, MAX_RULES
from cloud.aws.permissions import UNTESTED, Permission, Scene, Verdict, examine_permissions
from cloud.aws.session import AwsSession, Credentials
from cloud.catalog import MAX_AGE_DAYS, find_catalog
from milpa_ray.clock import Clock
from milpa_ray.errors import CloudNotReady, MilpaError
from milpa_ray.settings import Aws, Settings

CLOCK_WARNING = timedelta(seconds=30)
CLOCK_LIMIT = timedelta(minutes=4)
"""AWS refuses signatures that are five minutes off."""
SDK_REMEDY = "correct it, then run milpa doctor again"
GROUPS = "security groups per region"
SPARE_GROUPS = 50

QUOTAS = {
    "on-demand vCPUs": ("ec2", "L-1216C47A", 16),
    "spot vCPUs": ("ec2", "L-34B43A08", 16),
    GROUPS: ("vpc", "L-E79EC296", SPARE_GROUPS),
    "rules per security group": ("vpc", "L-0EA8095F", MAX_RULES),
    "security groups per instance": ("vpc", "L-2AFB9258", MAX_GROUPS),
}
"""By name: service and code in Service Quotas, and the least that we do not warn of (of groups: those to spare). The
vCPUs are those of the usual families (A, C, D, H, I, M, R, T, Z); new accounts begin with 1 to 5."""

REFRESH = frozenset(
    f"ec2:Describe{what}" for what in ("InstanceTypeOfferings", "InstanceTypes", "Regions", "SpotPriceHistory")
)
"""Permissions of 'milpa catalog refresh'."""

Step = Callable[[Survey], AsyncIterator[Finding]]


async def examine(settings: Settings, clock: Clock, catalog: Path | None, *, thorough: bool) -> list[Finding]:
    """All checks, in the order in which things are set up. ``catalog`` is the folder of refreshed prices. ``thorough``:
    also permissions, quotas and the way to the nodes, some fifty calls more; without it, a start is not hindered by
    what may mend itself or concerns new nodes only."""
    aws = settings.cloud.aws
    if aws is None:
        return [bad("cloud", "server.yml does not choose AWS", "set cloud.aws there, as docs/aws.md describes")]
    if find_spec("boto3") is None:
        return [bad("boto3", "not installed", "pip install 'milpa-ray[server,aws]'")]
    keys = Credentials(aws.access_key_id, aws.secret_access_key.get_secret_value())
    session = AwsSession(aws.region, keys)
    try:
        return await _examine(Survey(session, settings, aws, clock, catalog, starting=not thorough))
    finally:
        session.close()


async def _examine(survey: Survey) -> list[Finding]:
    found = [finding async for finding in _credentials(survey)]
    if not found[0].ok:
        return found  # nothing else would be answered
    steps: dict[str, Step] = {
        "prices": _prices,
        "VPC": check_vpc,
        "subnets": check_subnets,
        "boot image": check_images,
        "cluster name": _name,
    }
    if not survey.starting:
        steps |= {"permissions": _permissions, "quotas": _quotas, "way to the nodes": check_route}
    for name, step in steps.items():
        try:
            found += [finding async for finding in step(survey)]
        except CloudForbidden as error:
            found.append(survey.later(name, str(error), POLICY_REMEDY))
        except SdkMisconfigured as error:
            found.append(bad(name, str(error), SDK_REMEDY))
        except MilpaError as error:
            found.append(survey.later(name, str(error), "mend what AWS says, or try again"))
    return found


async def _credentials(survey: Survey) -> AsyncIterator[Finding]:
    try:
        answer = await survey.session.call("sts", "GetCallerIdentity")
    except SdkMisconfigured as error:
        yield bad("AWS endpoint", str(error), SDK_REMEDY)
    except CloudNotReady as error:
        yield bad("credentials", str(error), CREDENTIAL_REMEDY)
    except MilpaError as error:
        remedy = "check the network, cloud.aws.region and, if it is set, AWS_ENDPOINT_URL"
        yield survey.later("credentials", str(error), remedy)
    else:
        yield good("credentials", f"{answer['Arn']}, from {_source(survey.aws)}")
        yield _clock(survey.clock.now(), answer)


def _source(aws: Aws) -> str:
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "the environment"
    return "server.yml" if aws.access_key_id else "~/.aws or this machine's role"


def _clock(now: datetime, answer: Mapping[str, Any]) -> Finding:
    """Ours against the one that signed the answer's headers."""
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        off = now - parsedate_to_datetime(told)
    except (TypeError, ValueError):
        return hint("clock", "the API does not tell the time", "see that this machine's clock is kept by NTP")
    seconds = off.total_seconds()
    if abs(off) <= CLOCK_WARNING:
        return good("clock", "agrees with AWS")
    detail = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} AWS, which refuses 300 s"
    remedy = "set the clock and keep it set, for instance by chrony"
    return bad("clock", detail, remedy) if abs(off) > CLOCK_LIMIT else hint("clock", detail, remedy)


async def _prices(survey: Survey) -> AsyncIterator[Finding]:
    region, default = survey.aws.region, survey.settings.nodes.default_instance_type
    found = await survey.session.in_thread(lambda: find_catalog(region, survey.catalog))
    age = found.age_days(survey.clock.now().date())
    told = f"{len(found.catalogue.names)} types in {region}, prices of {found.as_of}"
    refresh = "milpa catalog refresh"
    if found.problem:
        yield hint("prices", found.problem, refresh)
    else:
        yield hint("prices", f"{told}: {age} days old", refresh) if age > MAX_AGE_DAYS else good("prices", told)
    known = dict(zip(found.catalogue.names, found.catalogue.arch, strict=True))
    survey.arch = str(known.get(default, survey.arch))


async def _name(survey: Survey) -> AsyncIterator[Finding]:
    cluster = survey.settings.cluster_name
    holder = await ClusterLock(survey.session, cluster, survey.clock).holder()
    now = survey.clock.now()
    if holder is None:
        yield good("cluster name", f"{cluster!r} is free (DynamoDB table {TABLE})")
    elif holder.dead(now):
        yield hint(
            "cluster name",
            f"{cluster!r} was last held by {holder.told(now)}",
            "none if that was this very cluster; if it was another that is gone for good: milpa up --take-over-name",
        )
    else:
        minutes = DEAD_AFTER.total_seconds() / 60
        yield good(
            "cluster name",
            f"{cluster!r} is held by {holder.told(now)}; if that is not this cluster, choose another clusterName (who "
            f"is silent for {minutes:.0f} minutes counts as dead)",
        )


async def _permissions(survey: Survey) -> AsyncIterator[Finding]:
    """One line for what is there, one for each permission that is missing."""
    default = survey.settings.nodes.default_instance_type
    scene = Scene(survey.aws.region, default, survey.image, survey.subnet, survey.vpc)
    found = await examine_permissions(survey.session, scene)
    allowed = sum(permission.verdict is Verdict.ALLOWED for permission in found)
    untested = ", ".join(sorted(UNTESTED))
    unknown = sum(permission.verdict is Verdict.UNKNOWN for permission in found)
    told = f"{allowed} of {len(found)} are there; not to be told without a change: {untested}"
    missing = [
        _missing(permission, survey.settings) for permission in found if permission.verdict is not Verdict.ALLOWED
    ]
    if not missing:
        yield good("permissions", told)
    else:
        told = f"{unknown} could not be tested; {told}" if unknown else told
        essential = any(each.essential for each in missing)
        yield Finding("permissions", False, told, "see the lines of those that are not", essential)
    for each in missing:
        yield each


def _missing(permission: Permission, settings: Settings) -> Finding:
    if permission.verdict is Verdict.UNKNOWN:
        return hint(permission.action, permission.message, "run milpa doctor again")
    if use := _only_for(permission.action, settings):
        return hint(permission.action, f"denied; only {use} needs it", POLICY_REMEDY)
    return bad(permission.action, "denied", POLICY_REMEDY)


def _only_for(action: str, settings: Settings) -> str:
    """The one thing that the permission is for, if Milpa can do without it."""
    if action in REFRESH:
        return "'milpa catalog refresh'"
    if action.startswith("elasticloadbalancing:"):
        return "a Service of type LoadBalancer"
    if action.startswith("route53:") and settings.service_discovery.private_dns is None:
        return "serviceDiscovery, which server.yml leaves out,"
    return ""


async def _quotas(survey: Survey) -> AsyncIterator[Finding]:
    """Advice only: reading quotas is a permission that nothing else needs."""
    found = await asyncio.gather(*(_quota(survey, name) for name in QUOTAS))
    for finding in found:
        yield finding


async def _quota(survey: Survey, name: str) -> Finding:
    service, code, least = QUOTAS[name]
    what = f"quota: {name}"
    where = f"Service Quotas, {service}, {code}"
    try:
        answer = await survey.session.call("service-quotas", "GetServiceQuota", ServiceCode=service, QuotaCode=code)
    except CloudForbidden:
        return hint(what, "not known: denied", f"allow servicequotas:GetServiceQuota, or look in the console ({where})")
    except MilpaError as error:
        return hint(what, f"not known: {error}", f"look in the console ({where})")
    value = float(answer["Quota"]["Value"])
    used = await _groups(survey) if name == GROUPS else 0
    told = f"{used} of {value:g} in use" if used else f"{value:g}"
    return good(what, told) if value - used >= least else hint(what, told, f"ask AWS for more ({where})")


async def _groups(survey: Survey) -> int:
    """How many security groups there are in the region; 0 when that is not told."""
    try:
        pages = survey.session.pages("ec2", "DescribeSecurityGroups", MaxResults=1000)
        return sum([len(page["SecurityGroups"]) async for page in pages])
    except MilpaError:
        return 0
