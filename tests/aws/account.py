"""What an AWS account has before Milpa comes: a VPC whose subnets lie inside one range, one subnet per zone, a way to
the internet, and a boot image. Made through the API, as its owner would.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

REGION = "us-east-1"
ZONES = tuple(f"{REGION}{letter}" for letter in "abcdef")
OWNER = "123456789012"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_SESSION_TOKEN": "testing"}
IMAGE_TAGS = {"purpose": "milpa-node"}
BASE_IMAGES = {"amd64": "ami-0000000000a0d6400", "arm64": "ami-0000000000a700000"}
"""Public images that are there from the start (``images.json``)."""
RESERVED = 5
"""Addresses that AWS keeps for itself in each subnet."""


@dataclass(frozen=True, slots=True)
class Account:
    """Ids of what is there. ``subnets`` are the public ones by zone, ``private_subnets`` those without a way in."""

    vpc: str
    subnets: dict[str, str]
    private_subnets: dict[str, str]
    image: str


def client(service: str, url: str, region: str = REGION) -> Any:
    """A plain boto3 client of one service at ``url``, without retries."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=20),
    )


def furnish(url: str, network: IPv4Network, *, private: bool = False) -> Account:
    """Sets the account up at the API server ``url``. The first subnets are public; with ``private``, each zone has a
    private one, too."""
    ec2 = client("ec2", url)
    vpc = ec2.create_vpc(CidrBlock=str(network))["Vpc"]["VpcId"]
    count = len(ZONES) * (2 if private else 1)
    ranges = iter(network.subnets(prefixlen_diff=(count - 1).bit_length()))
    made = [{zone: _subnet(ec2, vpc, zone, next(ranges)) for zone in ZONES} for _ in range(2 if private else 1)]
    public = made[0]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    for subnet in public.values():
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    return Account(vpc, public, made[1] if private else {}, register_image(ec2))


def register_image(
    ec2: Any, name: str = "milpa-node-1", tags: dict[str, str] | None = None, arch: str = "amd64"
) -> str:
    """Adds a boot image of ours; its id. It is a copy, since what moto registers anew has no architecture."""
    image: str = ec2.copy_image(Name=name, SourceImageId=BASE_IMAGES[arch], SourceRegion=REGION)["ImageId"]
    told = IMAGE_TAGS if tags is None else tags
    ec2.create_tags(Resources=[image], Tags=[{"Key": key, "Value": value} for key, value in told.items()])
    return image


def _subnet(ec2: Any, vpc: str, zone: str, network: IPv4Network) -> str:
    made: str = ec2.create_subnet(VpcId=vpc, AvailabilityZone=zone, CidrBlock=str(network))["Subnet"]["SubnetId"]
    return made
