"""server.yml: the manual's file, defaults, overrides, and errors with lines and hints."""

import pickle
import re
from pathlib import Path

import pytest

from milpa_ray.errors import Invalid
from milpa_ray.limits import Limits
from milpa_ray.settings import FirewallMode, Settings, SettingsErrors, load_settings, parse_settings

EXAMPLE = Path(__file__).parents[1] / "examples" / "server.yml"

MANUAL = """\
apiVersion: v1
clusterName: your-cluster-name
cloud:
  aws:
    region: us-east-1
    accessKeyID: FILL_IN
    secretAccessKey: FILL_IN_TOO
    vpcID: default
    imageOwnerID: 689494258501
serviceDiscovery:
  privateDNS:
    ttl: 30
etcd:
  client:
    endpoints: []
    certFile: ""
    keyFile: ""
    caFile: ""
  internal:
    dataDir: /opt/milpa/data
    configFile: ""
nodes:
  firewallMode: OpenToVPC
  standbyNodes:
    - instanceType: "t3.micro"
      count: 2
      spot: false
  defaultInstanceType: t3.nano
  bootImageTags:
    company: elotl
    version: 1.0.3
  defaultVolumeSize: 8Gi
  defaultFirewallRules:
    - protocol: TCP
      port: 22
    - protocol: ICMP
      port: -1
  cloudInitFile: /opt/milpa/etc/cloudinit.yml
license:
  username: name@example.com
  password: password123
  id: provided-by-elotl
  key: provided-by-elotl-too
  file: /var/lib/milpa/license.data
disableUsageReporter: true
"""


def parse(text: str, **env: str) -> Settings:
    return parse_settings(text, "server.yml", env)


def errors_of(text: str, **env: str) -> list[str]:
    with pytest.raises(SettingsErrors) as caught:
        parse(text, **env)
    return str(caught.value).splitlines()


def test_every_key_of_the_manual() -> None:
    settings = parse(MANUAL)
    assert settings.cluster_name == "your-cluster-name"
    aws = settings.cloud.aws
    assert aws is not None
    assert settings.cloud.local is None
    assert (aws.region, aws.access_key_id, aws.vpc_id) == ("us-east-1", "FILL_IN", "default")
    assert aws.secret_access_key.get_secret_value() == "FILL_IN_TOO"
    assert aws.image_owner_id == "689494258501"
    assert settings.service_discovery.private_dns is not None
    assert settings.service_discovery.private_dns.ttl == 30
    assert settings.etcd.client.endpoints == ()
    assert settings.etcd.internal.data_dir == "/opt/milpa/data"
    nodes = settings.nodes
    assert [(p.instance_type, p.count, p.spot) for p in nodes.standby_nodes] == [("t3.micro", 2, False)]
    assert nodes.boot_image_tags == {"company": "elotl", "version": "1.0.3"}
    assert (nodes.default_instance_type, nodes.default_volume_size) == ("t3.nano", "8Gi")
    assert [(str(r.protocol), r.port) for r in nodes.default_firewall_rules] == [("TCP", 22), ("ICMP", -1)]
    assert nodes.firewall_mode == FirewallMode.OPEN_TO_VPC
    assert nodes.cloud_init_file == "/opt/milpa/etc/cloudinit.yml"
    assert settings.disable_usage_reporter


def test_secrets_are_never_shown() -> None:
    settings = parse(MANUAL, AWS_SECRET_ACCESS_KEY="from-env")
    for text in (str(settings), repr(settings), settings.model_dump_json(), str(settings.model_dump())):
        for secret in ("FILL_IN_TOO", "from-env", "password123", "provided-by-elotl-too"):
            assert secret not in text


def test_secrets_are_not_shown_in_errors_either() -> None:
    errors = errors_of(
        "clusterName: a\nlicense: {password: [hunter2], key: {a: hunter2}}\ncloud: {aws: {secretAccessKey: 1234567}}"
    )
    assert len(errors) >= 3
    assert "hunter2" not in str(errors)
    assert "1234567" not in str(errors)


def test_secrets_survive_pickling() -> None:
    settings = pickle.loads(pickle.dumps(parse(MANUAL)))
    assert settings.cloud.aws.secret_access_key.get_secret_value() == "FILL_IN_TOO"


def test_the_least_that_is_needed() -> None:
    settings = parse("clusterName: demo")
    assert settings.cloud.local is not None
    assert settings.cloud.region == "us-east-1"
    assert settings.service_discovery.private_dns is None
    assert settings.controllers.api_port == 54555
    assert settings.limits == Limits()
    assert settings.nodes.default_volume_size == "5Gi"


def test_the_example_is_the_defaults_with_dns() -> None:
    example = load_settings(EXAMPLE, {})
    assert example == parse("clusterName: milpa\nserviceDiscovery: {privateDNS: {}}")


def test_the_example_s_commented_keys_are_right_too() -> None:
    commented = re.compile(r"^( *)# ( *(?:- )?[A-Za-z]+:(?: .*)?)$", re.MULTILINE)
    full, count = commented.subn(r"\1\2", EXAMPLE.read_text())
    assert count > 30
    (error,) = errors_of(full)
    assert "cloud: give only one of 'aws' and 'local'" in error


def test_sections_without_a_value() -> None:
    settings = parse("clusterName: a\ncloud:\n  local:\nserviceDiscovery:\n  privateDNS:\netcd:\nnodes:\nlimits:\n")
    assert settings == parse("clusterName: a\nserviceDiscovery: {privateDNS: {ttl: 30}}")


def test_a_ttl_of_zero_is_the_default() -> None:
    dns = parse("clusterName: a\nserviceDiscovery: {privateDNS: {ttl: 0}}").service_discovery.private_dns
    assert dns is not None
    assert dns.ttl == 30


def test_local_cloud_limits_and_controllers() -> None:
    settings = parse(
        "clusterName: a\ncloud: {local: {region: eu-west-1, bridge: br1, subnet: 10.9.0.0/20, "
        "registryPorts: [5000, 5001], bootDelayS: 1.5, maxInstances: 9}}\n"
        "limits: {bootTimeoutS: 60, startFailures: 1}\n"
        "controllers: {shards: 4, apiPort: 1234, apiHost: 127.0.0.1}\nnodes: {insecureRegistries: ['reg:5000']}\n"
    )
    local = settings.cloud.local
    assert local is not None
    assert (local.region, local.bridge, local.subnet, local.registry_ports) == (
        "eu-west-1",
        "br1",
        "10.9.0.0/20",
        (5000, 5001),
    )
    assert (local.boot_delay_s, local.max_instances) == (1.5, 9)
    assert (settings.limits.boot_timeout_s, settings.limits.start_failures) == (60.0, 1)
    assert (settings.controllers.shards, settings.controllers.api_port, settings.controllers.api_host) == (
        4,
        1234,
        "127.0.0.1",
    )
    assert settings.nodes.insecure_registries == ("reg:5000",)


# ---------------------------------------------------------------- environment and paths


def test_the_environment_overrides_aws() -> None:
    aws = parse(MANUAL, AWS_REGION="eu-west-1", AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="key").cloud.aws
    assert aws is not None
    assert (aws.region, aws.access_key_id, aws.secret_access_key.get_secret_value()) == ("eu-west-1", "id", "key")


def test_an_empty_variable_overrides_nothing() -> None:
    assert parse(MANUAL, AWS_REGION="").cloud.region == "us-east-1"


def test_aws_may_be_set_by_the_environment_alone() -> None:
    assert parse("clusterName: a\ncloud: {aws: }", AWS_REGION="eu-west-1").cloud.region == "eu-west-1"


def test_the_environment_of_aws_leaves_the_local_cloud_alone() -> None:
    settings = parse("clusterName: a", AWS_REGION="eu-west-1", AWS_ACCESS_KEY_ID="id")
    assert settings.cloud.aws is None
    assert settings.cloud.region == "us-east-1"


def test_the_data_directory_follows_the_home() -> None:
    assert parse("clusterName: a").etcd.internal.data_dir == "/opt/milpa/data"
    assert parse("clusterName: a", MILPA_HOME="/srv/m").etcd.internal.data_dir == "/srv/m/data"


def test_relative_paths_begin_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.yml"
    path.write_text(
        "clusterName: a\nnodes: {cloudInitFile: init.yml}\netcd:\n  internal: {dataDir: d, configFile: e.yml}\n"
        "  client: {certFile: c.crt, keyFile: c.key, caFile: /ca.crt}\n"
    )
    settings = load_settings(path, {})
    assert settings.nodes.cloud_init_file == str(tmp_path / "init.yml")
    assert settings.etcd.internal.data_dir == str(tmp_path / "d")
    assert settings.etcd.internal.config_file == str(tmp_path / "e.yml")
    client = settings.etcd.client
    assert (client.cert_file, client.key_file, client.ca_file) == (f"{tmp_path}/c.crt", f"{tmp_path}/c.key", "/ca.crt")


# ---------------------------------------------------------------- errors


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"does not exist; make it from examples/server.yml"):
        load_settings(tmp_path / "server.yml", {})
    with pytest.raises(Invalid, match="cannot be read: Is a directory"):
        load_settings(tmp_path, {})
    (tmp_path / "server.yml").write_bytes(b"\xff")
    with pytest.raises(Invalid, match="is not UTF-8 text"):
        load_settings(tmp_path / "server.yml", {})


def test_all_errors_at_once_with_their_lines() -> None:
    text = "clusterNam: a\ncloud:\n  local:\n    subnet: 8.8.8.0/24\n"
    text += "nodes:\n  standbyNodes:\n  - count: -1\n  firewalMode: Open\n"
    assert [error.partition(": ")[0] for error in errors_of(text)] == [
        *["server.yml:1"] * 2,
        "server.yml:4",
        *["server.yml:7"] * 2,
        "server.yml:8",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "clusterName: is required"),
        ("a", "expected settings such as 'clusterName: demo'"),
        ("clusterName: a\n---\nb: 1", "server.yml:3: settings are one document"),
        ("clusterName: a\nclusterName: b", "server.yml:2: clusterName: duplicate key"),
        ("clusterName: [", "YAML syntax error"),
        (
            "clusterName: a\nclustername: a",
            "server.yml:2: clustername: unknown field 'clustername'; did you mean 'clusterName'?",
        ),
        ("clusterName: My_Cluster", "clusterName: 'My_Cluster' must hold lower-case letters"),
        ("clusterName: 5", "clusterName: expected text, got a number; put it in quotes"),
        (f"clusterName: {'a' * 41}", "clusterName: must be at most 40 characters long"),
        ("clusterName: a\napiVersion: v2", "apiVersion: 'v2' is not known; use 'v1'"),
        ("clusterName: a\ncloud: {aws: {region: us-east-1}, local: {}}", "cloud: give only one of 'aws' and 'local'"),
        ("clusterName: a\ncloud: {gce: {}}", "cloud.gce: unknown field 'gce'"),
        (
            "clusterName: a\ncloud: {aws: {}}",
            "cloud.aws.region: is required; write one such as 'us-east-1', or set AWS_REGION",
        ),
        ("clusterName: a\ncloud: {aws: {region: US}}", "cloud.aws.region: 'US' is no region"),
        ("clusterName: a\ncloud: {aws: {region: r, accessKeyID: a}}", "cloud.aws.secretAccessKey: is required beside"),
        ("clusterName: a\ncloud: {aws: {region: r, secretAccessKey: a}}", "cloud.aws.accessKeyID: is required beside"),
        ("clusterName: a\ncloud: {aws: {region: r, imageOwnerID: 5}}", "cloud.aws.imageOwnerID: is no account"),
        (
            "clusterName: a\ncloud: {local: {bridge: a-very-long-name}}",
            "cloud.local.bridge: must be an interface's name",
        ),
        ("clusterName: a\ncloud: {local: {subnet: 10.0.0.1/16}}", "cloud.local.subnet: 10.0.0.1/16 has host bits set"),
        (
            "clusterName: a\ncloud: {local: {subnet: 10.0.0.0/30}}",
            "cloud.local.subnet: must be a private network of /8 to /28",
        ),
        ("clusterName: a\ncloud: {local: {registryPorts: [0]}}", "cloud.local.registryPorts[0]: must be 1 to 65535"),
        ("clusterName: a\ncloud: {local: {bootDelayS: -1}}", "cloud.local.bootDelayS: must be at least 0"),
        (
            "clusterName: a\nserviceDiscovery: {privateDNS: {ttl: soon}}",
            "privateDNS.ttl: expected a whole number, got text",
        ),
        ("clusterName: a\netcd: {client: {endpoints: [etcd]}}", "etcd.client.endpoints[0]: 'etcd' is no endpoint"),
        (
            "clusterName: a\netcd: {client: {endpoints: ['a:70000']}}",
            "etcd.client.endpoints[0]: 'a:70000' is no endpoint",
        ),
        ("clusterName: a\netcd: {client: {certFile: a}}", "etcd.client.keyFile: is required"),
        (
            "clusterName: a\nnodes: {firewallMode: open}",
            "nodes.firewallMode: 'open' is not known; use 'OpenToVPC' or 'Closed'",
        ),
        ("clusterName: a\nnodes: {defaultVolumeSize: 65Ti}", "nodes.defaultVolumeSize: '65Ti' is no size of a root"),
        ("clusterName: a\nnodes: {defaultVolumeSize: big}", "nodes.defaultVolumeSize: 'big' is no quantity"),
        ("clusterName: a\nnodes: {defaultInstanceType: c5*}", "nodes.defaultInstanceType: 'c5*' is no instance type"),
        (
            "clusterName: a\nnodes: {standbyNodes: [{instanceType: A, count: 1}]}",
            "standbyNodes[0].instanceType: 'A' is no",
        ),
        ("clusterName: a\nnodes: {standbyNodes: [{instanceType: a}]}", "nodes.standbyNodes[0].count: is required"),
        (
            "clusterName: a\nnodes: {defaultFirewallRules: [{protocol: tcp, port: -1}]}",
            "port: must be 1 to 65535; -1 is for",
        ),
        (
            "clusterName: a\nnodes: {bootImageTags: {version: 1.0}}",
            "bootImageTags.version: expected text, got a number; put it",
        ),
        (
            "clusterName: a\nnodes: {insecureRegistries: ['http://a']}",
            "insecureRegistries[0]: 'http://a' is no registry",
        ),
        ("clusterName: a\ncontrollers: {shards: 0}", "controllers.shards: must be at least 1"),
        (
            "clusterName: a\nlimits: {bootTimeout: 1}",
            "limits.bootTimeout: unknown field 'bootTimeout'; did you mean 'bootTimeoutS'?",
        ),
        ("clusterName: a\nlimits: {unhealthyAfterS: 5}", "limits.unhealthyAfterS: must be more than heartbeatS (10)"),
        ("clusterName: a\nlimits: {retryMaxS: 0.1}", "limits.retryMaxS: must be at least retryFirstS (0.2)"),
        ("clusterName: a\nlicense: {user: a}", "license.user: unknown field 'user'; did you mean 'username'?"),
    ],
)
def test_wrong_settings(text: str, error: str) -> None:
    errors = errors_of(text)
    assert len(errors) == 1
    assert error in errors[0]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:2379", "http://a:2379", "https://etcd-1.example:2379", "[::1]:2379"])
def test_endpoints(endpoint: str) -> None:
    settings = parse(f"clusterName: a\netcd: {{client: {{endpoints: ['{endpoint}']}}}}")
    assert settings.etcd.client.endpoints == (endpoint,)
