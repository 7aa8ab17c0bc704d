"""The server's settings: ``server.yml`` as the manual lays it out, with the environment's overrides.

Types, defaults and checks of the file by itself; whether a file that it names exists, or a credential works, is for
``milpa doctor``. Licence and usage-reporter keys are accepted and do nothing: nothing ever reports home.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr

from milpa_ray.api import document, names
from milpa_ray.api.meta import API_VERSION, Model
from milpa_ray.api.pod import Protocol
from milpa_ray.api.podcheck import check_volume_size
from milpa_ray.api.quantity import NumberText, Quantity
from milpa_ray.api.reporting import LocatedError, LocatedErrors
from milpa_ray.api.schema import FieldError, canonical, check
from milpa_ray.errors import Invalid
from milpa_ray.limits import Limits
from milpa_ray.paths import Home

_EMPTY_SECRET = SecretStr("")


class SettingsErrors(LocatedErrors):
    """All errors of one ``server.yml``."""


# ---------------------------------------------------------------- cloud


class Aws(Model):
    """Empty credentials: boto3's own chain (shared files, then the instance's role). ``vpc_id`` may be ``default``;
    empty means the VPC that the controller is in."""

    region: str = ""
    access_key_id: str = Field(default="", alias="accessKeyID")
    secret_access_key: SecretStr = _EMPTY_SECRET
    vpc_id: str = Field(default="", alias="vpcID")
    image_owner_id: Annotated[str, NumberText()] = Field(default="", alias="imageOwnerID")


class Local(Model):
    """The data centre in a box. ``region`` picks the catalogue's types, prices and zones. Registries on the host's
    ``registry_ports`` are reachable from the instances. ``max_instances`` 0: as many as the memory allows."""

    region: str = "us-east-1"
    bridge: str = "milpa0"
    subnet: str = "10.210.0.0/16"
    registry_ports: tuple[int, ...] = (5000,)
    boot_delay_s: float = Field(default=0.0, ge=0)
    max_instances: int = Field(default=0, ge=0)


class Cloud(Model):
    """Exactly one of the two is set."""

    aws: Aws | None = None
    local: Local | None = None

    @classmethod
    def from_manifest(cls, value: dict[str, Any]) -> dict[str, Any]:
        """A bare ``local:`` chooses it with its defaults, and so does no choice at all."""
        named = {k: ({} if v is None and k in ("aws", "local") else v) for k, v in value.items()}
        return named or {"local": {}}

    @property
    def region(self) -> str:
        if self.aws is not None:
            return self.aws.region
        return self.local.region if self.local is not None else ""


# ---------------------------------------------------------------- discovery and store


class PrivateDns(Model):
    """``ttl`` in seconds; 0 means the default of 30."""

    ttl: int = Field(default=30, ge=0, le=2**31 - 1)

    @classmethod
    def from_manifest(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in value.items() if not (k == "ttl" and v == 0)}


class ServiceDiscovery(Model):
    """DNS service discovery is on when ``private_dns`` is there."""

    private_dns: PrivateDns | None = Field(default=None, alias="privateDNS")

    @classmethod
    def from_manifest(cls, value: dict[str, Any]) -> dict[str, Any]:
        """A bare ``privateDNS:`` turns it on."""
        return {k: ({} if v is None and k == "privateDNS" else v) for k, v in value.items()}


class EtcdClient(Model):
    """``endpoints`` as ``host:port``, with or without ``http://`` or ``https://``; none: the embedded etcd is used."""

    endpoints: tuple[str, ...] = ()
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""


class EtcdInternal(Model):
    """The embedded etcd. ``config_file`` is handed to etcd as it is."""

    data_dir: str = ""
    config_file: str = ""


class Etcd(Model):
    client: EtcdClient = EtcdClient()
    internal: EtcdInternal = EtcdInternal()


# ---------------------------------------------------------------- nodes


class FirewallMode(StrEnum):
    OPEN_TO_VPC = "OpenToVPC"
    CLOSED = "Closed"


class StandbyPool(Model):
    """``count`` idle nodes kept ready."""

    instance_type: str
    count: int = Field(ge=0)
    spot: bool = False


class FirewallRule(Model):
    """Opened on every node. For ICMP, ``port`` is the message type, -1 for all."""

    protocol: Protocol = Protocol.TCP
    port: int = Field(ge=-1, le=65535)


class Nodes(Model):
    """``insecure_registries`` are ``host`` or ``host:port`` that may be spoken to without TLS; localhost always may."""

    standby_nodes: tuple[StandbyPool, ...] = ()
    default_instance_type: str = "t3.nano"
    boot_image_tags: dict[str, str] = Field(default_factory=dict)
    default_volume_size: Quantity = "5Gi"
    cloud_init_file: str = ""
    firewall_mode: FirewallMode = FirewallMode.OPEN_TO_VPC
    default_firewall_rules: tuple[FirewallRule, ...] = ()
    insecure_registries: tuple[str, ...] = ()


class Controllers(Model):
    """``shards`` is the number of shard actors; ``api_host`` and ``api_port`` are where API servers listen."""

    shards: int = Field(default=2, ge=1, le=64)
    api_port: int = Field(default=54555, ge=1, le=65535)
    api_host: str = "0.0.0.0"  # noqa: S104 - clients are on other machines; mutual TLS guards it


class License(Model):
    """Accepted and without effect."""

    username: str = ""
    password: Annotated[SecretStr, NumberText()] = _EMPTY_SECRET
    id: Annotated[str, NumberText()] = ""
    key: Annotated[SecretStr, NumberText()] = _EMPTY_SECRET
    file: str = ""


class Settings(Model):
    """All of ``server.yml``. ``str()`` and ``repr()`` show no secret."""

    api_version: str = API_VERSION
    cluster_name: str
    cloud: Cloud = Cloud(local=Local())
    service_discovery: ServiceDiscovery = ServiceDiscovery()
    etcd: Etcd = Etcd()
    nodes: Nodes = Field(default_factory=Nodes)
    controllers: Controllers = Controllers()
    limits: Limits = Limits()
    license: License = License()
    disable_usage_reporter: bool = False


# ---------------------------------------------------------------- loading


def load_settings(path: Path, env: Mapping[str, str] | None = None) -> Settings:
    """The settings in ``path``, with the overrides of ``env`` (the process's environment by default).

    Relative paths in the file are taken from its folder.

    Raises:
        SettingsErrors: something in the file is wrong; all errors of it.
        Invalid: the file cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise Invalid(f"{path} does not exist; make it from examples/server.yml, or set MILPA_HOME") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from None
    return parse_settings(text, str(path), env, folder=path.absolute().parent)


def parse_settings(
    text: str, source: str = "server.yml", env: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> Settings:
    """The settings that ``text`` holds; ``folder`` (default: the home's etc) is where relative paths begin.

    Raises:
        SettingsErrors: something in the text is wrong; all errors of it.
    """
    env = os.environ if env is None else env
    home = Home.from_env(env)
    parsed = document.parse_documents(text)
    errors = [LocatedError(source, p.line, p.document, p.path, p.reason) for p in parsed.problems]
    if len(parsed.documents) > 1:
        errors.append(LocatedError(source, parsed.documents[1].line, 1, (), "settings are one document; remove '---'"))
    if errors and not parsed.documents:
        raise SettingsErrors(errors)
    found = parsed.documents[0] if parsed.documents else document.Document({}, 1, 1)
    if not isinstance(found.value, dict):
        raise SettingsErrors([*errors, LocatedError(source, 1, 1, (), "expected settings such as 'clusterName: demo'")])
    settings, wrong = check(Settings, _overridden(canonical(Settings, found.value), env))
    if settings is not None:
        paths = {error.path for error in wrong}
        wrong += [error for error in _check(settings) if error.path not in paths]
    errors += [
        LocatedError(source, document.line_of(found.value, error.path, 1), 1, error.path, error.reason)
        for error in wrong
    ]
    if errors or settings is None:
        raise SettingsErrors(errors)
    return _with_paths(settings, home, folder or home.etc)


_OVERRIDES = {
    "AWS_REGION": "region",
    "AWS_ACCESS_KEY_ID": "accessKeyID",
    "AWS_SECRET_ACCESS_KEY": "secretAccessKey",
}


def _overridden(value: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """With the environment's values in ``cloud.aws``, when that is the cloud."""
    cloud = value.get("cloud")
    aws = cloud.get("aws") if isinstance(cloud, dict) else None
    if not isinstance(cloud, dict) or not isinstance(aws, dict):
        return value
    given = {key: env[name] for name, key in _OVERRIDES.items() if env.get(name)}
    return {**value, "cloud": {**cloud, "aws": {**aws, **given}}}


def _with_paths(settings: Settings, home: Home, folder: Path) -> Settings:
    """With all paths absolute and the data directory's default filled in."""

    def absolute(text: str) -> str:
        return str(folder / Path(text).expanduser()) if text else ""

    client, internal = settings.etcd.client, settings.etcd.internal
    client = client.model_copy(
        update={name: absolute(getattr(client, name)) for name in ("cert_file", "key_file", "ca_file")}
    )
    internal = EtcdInternal(
        data_dir=absolute(internal.data_dir) or str(home.data), config_file=absolute(internal.config_file)
    )
    nodes = settings.nodes.model_copy(update={"cloud_init_file": absolute(settings.nodes.cloud_init_file)})
    return settings.model_copy(update={"etcd": Etcd(client=client, internal=internal), "nodes": nodes})


# ---------------------------------------------------------------- meaning

Errors = Iterator[FieldError]

_ENDPOINT = re.compile(r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})/?")
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_BRIDGE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_INSTANCE_TYPE = re.compile(r"[a-z0-9.-]{1,64}")
MAX_CLUSTER_NAME = 40
"""So that names made from it (security groups, DNS zones) stay within the clouds' limits."""


def _check(settings: Settings) -> Errors:
    """What the types alone cannot say."""
    if settings.api_version != API_VERSION:
        yield FieldError(("apiVersion",), f"{settings.api_version!r} is not known; use {API_VERSION!r}")
    if reason := names.dns_label(settings.cluster_name):
        yield FieldError(("clusterName",), reason)
    elif len(settings.cluster_name) > MAX_CLUSTER_NAME:
        yield FieldError(("clusterName",), f"must be at most {MAX_CLUSTER_NAME} characters long")
    yield from _check_cloud(settings.cloud)
    yield from _check_etcd(settings.etcd)
    yield from _check_nodes(settings.nodes)
    limits = settings.limits
    if limits.unhealthy_after_s <= limits.heartbeat_s:
        yield FieldError(("limits", "unhealthyAfterS"), f"must be more than heartbeatS ({limits.heartbeat_s:g})")
    if limits.retry_max_s < limits.retry_first_s:
        yield FieldError(("limits", "retryMaxS"), f"must be at least retryFirstS ({limits.retry_first_s:g})")


def _check_cloud(cloud: Cloud) -> Errors:
    if cloud.aws is not None and cloud.local is not None:
        yield FieldError(("cloud",), "give only one of 'aws' and 'local'")
    if cloud.aws is not None:
        yield from _check_aws(cloud.aws)
    if cloud.local is not None:
        yield from _check_local(cloud.local)


def _check_aws(aws: Aws) -> Errors:
    path = ("cloud", "aws")
    if not _REGION.fullmatch(aws.region):
        what = f"{aws.region[:80]!r} is no region" if aws.region else "is required"
        yield FieldError((*path, "region"), f"{what}; write one such as 'us-east-1', or set AWS_REGION")
    if bool(aws.access_key_id) != bool(aws.secret_access_key.get_secret_value()):
        missing = "secretAccessKey" if aws.access_key_id else "accessKeyID"
        yield FieldError((*path, missing), "is required beside the other half of the key; or leave out both")
    if aws.image_owner_id and not re.fullmatch(r"[0-9]{12}|[a-z-]+", aws.image_owner_id):
        yield FieldError((*path, "imageOwnerID"), "is no account; write its 12 digits, in quotes when it begins with 0")


def _check_local(local: Local) -> Errors:
    path = ("cloud", "local")
    if not _REGION.fullmatch(local.region):
        yield FieldError((*path, "region"), f"{local.region[:80]!r} is no region; write one such as 'us-east-1'")
    if not _BRIDGE.fullmatch(local.bridge):
        yield FieldError((*path, "bridge"), "must be an interface's name of at most 15 characters, such as 'milpa0'")
    try:
        subnet = ipaddress.IPv4Network(local.subnet)
    except ValueError as error:
        yield FieldError((*path, "subnet"), f"{error}; write one such as '10.210.0.0/16'")
    else:
        if not 8 <= subnet.prefixlen <= 28 or not subnet.is_private:
            yield FieldError((*path, "subnet"), "must be a private network of /8 to /28, such as '10.210.0.0/16'")
    for i, port in enumerate(local.registry_ports):
        if not 1 <= port <= 65535:
            yield FieldError((*path, "registryPorts", i), "must be 1 to 65535")


def _check_etcd(etcd: Etcd) -> Errors:
    path = ("etcd", "client")
    for i, endpoint in enumerate(etcd.client.endpoints):
        match = _ENDPOINT.fullmatch(endpoint)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            reason = f"{endpoint[:80]!r} is no endpoint; write one such as '127.0.0.1:2379' or 'https://etcd:2379'"
            yield FieldError((*path, "endpoints", i), reason)
    if bool(etcd.client.cert_file) != bool(etcd.client.key_file):
        missing = "keyFile" if etcd.client.cert_file else "certFile"
        yield FieldError((*path, missing), "is required: a client certificate is a pair of certFile and keyFile")


def _check_nodes(nodes: Nodes) -> Errors:
    for i, pool in enumerate(nodes.standby_nodes):
        if not _INSTANCE_TYPE.fullmatch(pool.instance_type):
            reason = f"{pool.instance_type[:80]!r} is no instance type; write one such as 't3.micro'"
            yield FieldError(("nodes", "standbyNodes", i, "instanceType"), reason)
    if not _INSTANCE_TYPE.fullmatch(nodes.default_instance_type):
        reason = f"{nodes.default_instance_type[:80]!r} is no instance type; write one such as 't3.nano'"
        yield FieldError(("nodes", "defaultInstanceType"), reason)
    if reason := check_volume_size(nodes.default_volume_size):
        yield FieldError(("nodes", "defaultVolumeSize"), reason)
    for i, rule in enumerate(nodes.default_firewall_rules):
        if rule.protocol != Protocol.ICMP and rule.port < 1:
            yield FieldError(("nodes", "defaultFirewallRules", i, "port"), "must be 1 to 65535; -1 is for ICMP only")
    for i, host in enumerate(nodes.insecure_registries):
        if not _HOST.fullmatch(host):
            reason = f"{host[:80]!r} is no registry; write its host, such as 'registry.local:5000'"
            yield FieldError(("nodes", "insecureRegistries", i), reason)
