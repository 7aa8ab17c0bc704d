"""The coordinator's side of AWS: one session, and on it compute, security groups and the hold on the cluster's name."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from cloud.aws.cluster_lock import ClusterLock
from cloud.aws.ec2 import Ec2Compute, Surroundings
from cloud.aws.groups import SecurityGroups
from cloud.aws.images import Images
from cloud.aws.network import Network
from cloud.aws.session import AwsSession, Credentials
from milpa_ray.clock import Clock
from milpa_ray.errors import Invalid
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.firewall import FirewallPolicy, OpenPort
from milpa_ray.settings import Aws, FirewallMode, Nodes, Settings


@dataclass(frozen=True, slots=True)
class AwsCloud:
    """What the coordinator calls AWS through. Cheap to build: nothing is sent before the first call."""

    session: AwsSession
    compute: Ec2Compute
    firewall: SecurityGroups
    name_lock: ClusterLock

    def close(self) -> None:
        """Ends its threads."""
        self.session.close()


def credentials(aws: Aws) -> Credentials:
    """Those of ``server.yml``; the environment's win over them."""
    return Credentials(aws.access_key_id, aws.secret_access_key.get_secret_value())


def aws_cloud(settings: Settings, aws: Aws, cluster_uuid: str, catalogue: Catalogue, clock: Clock) -> AwsCloud:
    """For the cluster of these settings.

    Raises:
        Invalid: the part for AWS is not installed.
    """
    if find_spec("boto3") is None:
        raise Invalid("cloud.aws: boto3 is not installed; install Milpa's part for AWS: pip install 'milpa-ray[aws]'")
    session = AwsSession(aws.region, credentials(aws))
    network = Network(session, aws.vpc_id)
    firewall = SecurityGroups(session, settings.cluster_name, cluster_uuid, network.vpc_id)
    images = Images(session, aws.image_owner_id, settings.nodes.boot_image_tags)
    around = Surroundings(images, network, architectures(catalogue), firewall.node_groups)
    return AwsCloud(
        session,
        Ec2Compute(session, settings.cluster_name, around),
        firewall,
        ClusterLock(session, settings.cluster_name, clock),
    )


def architectures(catalogue: Catalogue) -> Callable[[str], str]:
    """Tells the architecture of an instance type; empty for one that the region does not have."""
    known = dict(zip(catalogue.names, map(str, catalogue.arch), strict=True))
    return lambda instance_type: known.get(instance_type, "")


def firewall_policy(nodes: Nodes) -> FirewallPolicy:
    """What ``nodes.firewallMode`` and ``nodes.defaultFirewallRules`` say."""
    return FirewallPolicy(
        nodes.firewall_mode == FirewallMode.OPEN_TO_VPC,
        tuple(OpenPort(rule.protocol, rule.port) for rule in nodes.default_firewall_rules),
    )
