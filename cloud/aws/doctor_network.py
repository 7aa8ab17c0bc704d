"""The checks of what instances are launched into: VPC, subnets, boot images, and the way from here to the nodes.

They ask through the same classes as launches do, so both always agree.
"""

from collections.abc import AsyncIterator, Iterable

from cloud.aws.findings import Finding, Survey, bad, good, hint
from cloud.aws.images import ARCHITECTURES
from cloud.aws.metadata import NotOnEc2, own_vpc
from cloud.aws.network import Subnet
from milpa_ray.errors import CloudNotReady

FEW_ADDRESSES = 16
BUILD_REMEDY = "build one (nodeagent/image/README.md) with the tags of nodes.bootImageTags"


async def check_vpc(survey: Survey) -> AsyncIterator[Finding]:
    try:
        survey.vpc = await survey.network.vpc_id()
    except CloudNotReady as error:
        yield bad("VPC", str(error), "correct cloud.aws.vpcID in server.yml")
        return
    yield good("VPC", survey.vpc)


async def check_subnets(survey: Survey) -> AsyncIterator[Finding]:
    """A line for public and one for private subnets."""
    if not survey.vpc:
        return
    found = await survey.network.subnets()
    public = [subnet for subnet in found if subnet.public]
    private = [subnet for subnet in found if not subnet.public]
    if not found:
        yield survey.later("subnets", f"{survey.vpc} has no available IPv4 subnet", "add one in each availability zone")
        return
    roomiest = max(public or private, key=lambda subnet: subnet.free)
    survey.subnet = roomiest.id
    if public:
        yield _room("public subnets", public)
    else:
        yield hint(
            "public subnets",
            "none: only pods with spec.resources.privateIPOnly can run",
            "add a subnet whose route table has a route to an internet gateway",
        )
    if private:
        yield _room("private subnets", private)
    else:
        yield good("private subnets", "none: pods with privateIPOnly run in public ones, without a public address")


def _room(name: str, subnets: Iterable[Subnet]) -> Finding:
    known = list(subnets)
    zones = ", ".join(sorted({subnet.zone for subnet in known}))
    free = sum(subnet.free for subnet in known)
    detail = f"{len(known)} in {zones}; {free} free addresses"
    if free < FEW_ADDRESSES:
        return hint(name, detail, "each pod takes one address: add a bigger subnet")
    return good(name, detail)


async def check_images(survey: Survey) -> AsyncIterator[Finding]:
    """The default type's architecture must have an image; others are for pods that ask for them."""
    for arch in sorted(ARCHITECTURES, key=lambda arch: arch != survey.arch):
        name = f"boot image {arch}"
        try:
            image = await survey.images.newest(arch)
        except CloudNotReady as error:
            if arch == survey.arch:
                yield survey.later(name, str(error), BUILD_REMEDY)
            else:
                yield good(name, f"none: types of this architecture cannot be used ({BUILD_REMEDY})")
            continue
        if arch == survey.arch:
            survey.image = image.id
        yield good(name, f"{image.id}, the newest; root volumes have {image.root_gib} GiB or more")


async def check_route(survey: Survey) -> AsyncIterator[Finding]:
    """Controllers call the agents by their private addresses, and the nodes' firewall lets in only the VPC's own."""
    if not survey.vpc:
        return
    remedy = f"run Milpa on an instance in {survey.vpc}, or behind a VPN or proxy with addresses of that VPC"
    try:
        here = await survey.session.in_thread(own_vpc)
    except NotOnEc2:
        yield hint("way to the nodes", f"this machine is not in {survey.vpc}, nor in any other VPC", remedy)
        return
    if here != survey.vpc:
        yield hint("way to the nodes", f"this machine is in {here}, the nodes are in {survey.vpc}", remedy)
        return
    yield good("way to the nodes", f"this machine is in {survey.vpc}, too")
