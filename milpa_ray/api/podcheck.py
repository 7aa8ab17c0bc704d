"""Semantic checks of a pod's spec, for pods and for the templates of ReplicaSets and Deployments."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from milpa_ray.api import names, quantity
from milpa_ray.api.pod import (
    Capabilities,
    EnvVar,
    PodPhase,
    PodSecurityContext,
    PodSpec,
    Protocol,
    ResourceSpec,
    Unit,
    UnitPort,
    Volume,
    VolumeMount,
)
from milpa_ray.api.schema import FieldError, Path, suggest

Errors = Iterator[FieldError]

MILPACTL_VOLUME = "pod.elotl.co/milpactl-volume-name"
"""Annotation that names the volume to fill with milpactl and client certificates."""
MAX_UNITS = 100
ARCHITECTURES = ("amd64", "arm64")
GIB = 1 << 30
MIN_VOLUME_GIB = 1
MAX_VOLUME_GIB = 65_536
"""Greatest size of a gp3 volume, 64 TiB, as in "Amazon EBS General Purpose SSD volumes" on
https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html; the least is 1 GiB."""

_INSTANCE_TYPE = re.compile(r"[A-Za-z0-9.*?-]{1,64}")
_ZONE = re.compile(r"[a-z0-9-]{1,64}")
_CAPABILITY = re.compile(r"[A-Z][A-Z_]{0,40}")
_SYSCTL = re.compile(r"[a-z0-9][a-z0-9._/-]{0,252}")


def check_pod_spec(spec: PodSpec, annotations: Mapping[str, str], path: Path) -> Errors:
    """All errors of ``spec``; ``path`` is where it stands in its object."""
    if spec.phase not in (PodPhase.RUNNING, PodPhase.TERMINATED):
        yield FieldError((*path, "phase"), f"{str(spec.phase)!r} cannot be wished for; use 'Running' or 'Terminated'")
    yield from _units(spec, path)
    yield from _volumes(spec, annotations, path)
    yield from _secrets(spec.image_pull_secrets, (*path, "imagePullSecrets"))
    if spec.instance_type and not _INSTANCE_TYPE.fullmatch(spec.instance_type):
        reason = f"{spec.instance_type[:80]!r} is no instance type; write one such as 't3.nano', or a pattern 'c5*'"
        yield FieldError((*path, "instanceType"), reason)
    yield from check_resources(spec.resources, (*path, "resources"))
    zone = spec.placement.availability_zone
    if zone and not _ZONE.fullmatch(zone):
        reason = f"{zone[:80]!r} is no availability zone; write one such as 'us-east-1a'"
        yield FieldError((*path, "placement", "availabilityZone"), reason)
    if spec.security_context is not None:
        yield from _pod_security(spec.security_context, (*path, "securityContext"))


def check_resources(resources: ResourceSpec, path: Path) -> Errors:
    """All errors of the quantities and the architecture."""
    checks: tuple[tuple[str, str, Callable[[str], float]], ...] = (
        ("cpu", resources.cpu, quantity.to_cores),
        ("memory", resources.memory, quantity.to_bytes),
        ("gpu", resources.gpu, quantity.to_count),
    )
    for field, text, convert in checks:
        if reason := check_quantity(text, convert):
            yield FieldError((*path, field), reason)
    if reason := check_volume_size(resources.volume_size):
        yield FieldError((*path, "volumeSize"), reason)
    if resources.arch and resources.arch not in ARCHITECTURES:
        yield FieldError((*path, "arch"), f"{resources.arch[:80]!r} is not known; use {' or '.join(ARCHITECTURES)}")


def check_volume_size(text: str) -> str:
    """The reason why no root volume has this size, or empty text."""
    if not text:
        return ""
    if reason := check_quantity(text, quantity.to_bytes):
        return reason
    if MIN_VOLUME_GIB * GIB <= quantity.to_bytes(text) <= MAX_VOLUME_GIB * GIB:
        return ""
    return f"{text[:40]!r} is no size of a root volume; write {MIN_VOLUME_GIB}Gi to {MAX_VOLUME_GIB}Gi"


def check_quantity(text: str, convert: Callable[[str], float]) -> str:
    """The reason why ``convert`` does not take ``text``, or empty text."""
    try:
        convert(text)
    except quantity.QuantityError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- units


def _units(spec: PodSpec, path: Path) -> Errors:
    if not spec.units:
        yield FieldError((*path, "units"), "is required: a pod runs at least one unit")
    if len(spec.units) + len(spec.init_units) > MAX_UNITS:
        yield FieldError((*path, "units"), f"a pod holds at most {MAX_UNITS} units")
    volumes = {volume.name for volume in spec.volumes}
    seen: dict[str, str] = {}
    for field, units in (("units", spec.units), ("initUnits", spec.init_units)):
        for i, unit in enumerate(units):
            here: Path = (*path, field, i)
            yield from _unit(unit, volumes, here)
            if unit.name in seen:
                reason = f"duplicate unit name {unit.name!r}; {seen[unit.name]} has it already"
                yield FieldError((*here, "name"), reason)
            seen.setdefault(unit.name, f"{field}[{i}]")


def _unit(unit: Unit, volumes: set[str], path: Path) -> Errors:
    if reason := names.dns_label(unit.name):
        yield FieldError((*path, "name"), reason)
    if reason := names.image(unit.image):
        yield FieldError((*path, "image"), reason)
    for i, variable in enumerate(unit.env):
        yield from _env(variable, (*path, "env", i))
    yield from _mounts(unit.volume_mounts, volumes, (*path, "volumeMounts"))
    for i, port in enumerate(unit.ports):
        yield from check_port(port, (*path, "ports", i))
    yield from repeated((port.name for port in unit.ports), (*path, "ports"), "name")
    if unit.working_dir and not unit.working_dir.startswith("/"):
        yield FieldError((*path, "workingDir"), f"{unit.working_dir[:80]!r} must be an absolute path, such as '/app'")
    for field, words in (("command", unit.command), ("args", unit.args)):
        if any("\0" in word for word in words):
            yield FieldError((*path, field), "must not hold a zero byte")
    if unit.security_context is not None and unit.security_context.capabilities is not None:
        yield from _capabilities(unit.security_context.capabilities, (*path, "securityContext", "capabilities"))


def _env(variable: EnvVar, path: Path) -> Errors:
    if reason := names.env_name(variable.name):
        yield FieldError((*path, "name"), reason)
    if "\0" in variable.value:
        yield FieldError((*path, "value"), "must not hold a zero byte")
    if variable.value_from is None:
        return
    if variable.value:
        yield FieldError((*path, "valueFrom"), "must not stand beside 'value'; remove one of them")
    reference = variable.value_from.secret_key_ref
    if reference is None:
        yield FieldError((*path, "valueFrom", "secretKeyRef"), "is required")
        return
    if reason := names.dns_subdomain(reference.name):
        yield FieldError((*path, "valueFrom", "secretKeyRef", "name"), reason)
    if reason := names.data_key(reference.key):
        yield FieldError((*path, "valueFrom", "secretKeyRef", "key"), reason)


def _mounts(mounts: tuple[VolumeMount, ...], volumes: set[str], path: Path) -> Errors:
    for i, mount in enumerate(mounts):
        if mount.name not in volumes:
            hint = suggest(mount.name, volumes) or "; add it to the pod's volumes"
            yield FieldError((*path, i, "name"), f"names no volume of the pod: {mount.name[:80]!r}{hint}")
        if not mount.mount_path.startswith("/"):
            reason = f"{mount.mount_path[:80]!r} must be an absolute path, such as '/cache'"
            yield FieldError((*path, i, "mountPath"), reason)
        elif ".." in mount.mount_path.split("/") or "\0" in mount.mount_path:
            yield FieldError((*path, i, "mountPath"), "must not hold '..' or a zero byte")
    yield from repeated((mount.mount_path.rstrip("/") for mount in mounts), path, "mountPath")


def check_port(port: UnitPort, path: Path) -> Errors:
    """All errors of one port of a unit or a Service."""
    if port.name and (reason := names.dns_label(port.name)):
        yield FieldError((*path, "name"), reason)
    if port.protocol == Protocol.ICMP:
        if port.port > 255:
            yield FieldError((*path, "port"), f"{port.port} is no ICMP type; use 0 to 255, or -1 for all")
    elif port.port < 1:
        yield FieldError((*path, "port"), f"must be 1 to 65535 for {port.protocol}, not {port.port}")


def _capabilities(capabilities: Capabilities, path: Path) -> Errors:
    for field, listed in (("add", capabilities.add), ("drop", capabilities.drop)):
        for i, name in enumerate(listed):
            if not _CAPABILITY.fullmatch(name):
                yield FieldError((*path, field, i), f"{name[:80]!r} is no capability; write one such as 'NET_ADMIN'")


# ---------------------------------------------------------------- the rest of the pod


def _volumes(spec: PodSpec, annotations: Mapping[str, str], path: Path) -> Errors:
    here: Path = (*path, "volumes")
    for i, volume in enumerate(spec.volumes):
        yield from _volume(volume, (*here, i))
    yield from repeated((volume.name for volume in spec.volumes), here, "name")
    wanted = annotations.get(MILPACTL_VOLUME, "")
    if wanted and all(volume.name != wanted for volume in spec.volumes):
        yield FieldError(here, f"holds no volume {wanted[:80]!r}, which the annotation {MILPACTL_VOLUME} names")


def _volume(volume: Volume, path: Path) -> Errors:
    if reason := names.dns_label(volume.name):
        yield FieldError((*path, "name"), reason)
    if (volume.empty_dir is None) == (volume.package_path is None):
        both = volume.empty_dir is not None
        yield FieldError(path, "give only one of emptyDir and packagePath" if both else "give 'emptyDir: {}'")
    if volume.package_path is not None:
        parts = volume.package_path.path.split("/")
        if not volume.package_path.path or ".." in parts or "\0" in volume.package_path.path:
            yield FieldError((*path, "packagePath", "path"), "must be a path without '..'")


def _secrets(listed: tuple[str, ...], path: Path) -> Errors:
    seen = set[str]()
    for i, name in enumerate(listed):
        if reason := names.dns_subdomain(name):
            yield FieldError((*path, i), reason)
        elif name in seen:
            yield FieldError((*path, i), f"duplicate Secret {name!r}")
        seen.add(name)


def _pod_security(context: PodSecurityContext, path: Path) -> Errors:
    for i, group in enumerate(context.supplemental_groups):
        if group < 0:
            yield FieldError((*path, "supplementalGroups", i), "must be at least 0")
    for i, sysctl in enumerate(context.sysctls):
        if not _SYSCTL.fullmatch(sysctl.name):
            reason = f"{sysctl.name[:80]!r} is no sysctl; write one such as 'net.core.somaxconn'"
            yield FieldError((*path, "sysctls", i, "name"), reason)


def repeated(values: Iterable[str], path: Path, field: str) -> Errors:
    """An error for each item of the list at ``path`` whose ``field`` was there before. Empty ones don't count."""
    seen: dict[str, int] = {}
    for i, value in enumerate(values):
        if value and seen.setdefault(value, i) != i:
            yield FieldError(
                (*path, i, field), f"duplicate {field} {value!r}; {path[-1]}[{seen[value]}] has it already"
            )
