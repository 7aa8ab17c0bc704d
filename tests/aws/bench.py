"""The whole bench: a Milpa with ``cloud: aws`` against moto behind the proxy, and machines behind moto.

Everything of it is gone when ``running_bench`` ends, and no instance of its cluster runs at the API.
"""

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Generic, TypeVar

from cloud.local.network import used_ranges
from milpa_ray.paths import Home
from milpa_ray.pki import CertificateAuthority
from milpa_ray.planner.garbage import CLUSTER_TAG
from tests.aws.account import IMAGE_TAGS, KEYS, OWNER, REGION, Account, client, furnish
from tests.aws.hypervisor import Hypervisor
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy, Seen
from tests.aws.rack import HollowRack
from tests.aws.watch import Watch, bench_network
from tests.e2e.drills import Cluster, Object
from tests.e2e.leaks import Marks, held, now_in_ticks, traces
from tests.oci import build_busybox_image, free_port, running_registry
from tests.waiting import wait_until

Machines = TypeVar("Machines", bound=Watch)
LOCK_TABLE = "MilpaClusters"
SLIPS = ("Traceback", "never retrieved", "was destroyed")
"""In the controllers' logs: what no fault from outside may bring about."""


@dataclass
class Bench(Generic[Machines]):
    """A Milpa that is up on it. ``name`` is its cluster's."""

    proxy: AwsProxy
    account: Account
    machines: Machines
    milpa: Cluster
    name: str

    def instances(self) -> list[dict[str, Any]]:
        """All that this Milpa ever launched, as moto itself tells it; terminated ones, too."""
        return [one for one in self.machines.launched() if tags_of(one).get(CLUSTER_TAG) == self.name]

    def running(self) -> dict[str, dict[str, Any]]:
        """Those of them that run, by id."""
        return {one["InstanceId"]: one for one in self.instances() if one["State"]["Name"] == "running"}

    def instance_of(self, pod: str) -> str:
        """Id of the instance that the pod is bound to; empty when to none."""
        return str(self.milpa.get_pod(pod)["status"].get("boundInstanceID", ""))

    def calls(self, since: float = 0.0) -> Counter[str]:
        """Calls of Milpa by action, since that time (monotonic)."""
        return Counter(seen.action for seen in self.proxy.seen if seen.at >= since)

    def launches(self, since: float = 0.0) -> list[Seen]:
        """RunInstances calls, since that time (monotonic)."""
        return [seen for seen in self.proxy.seen if seen.action == "RunInstances" and seen.at >= since]

    def delete_all(self, timeout_s: float = 60.0) -> None:
        """Deletes every pod; returns once no instance runs any more."""
        names = list(self.milpa.items("pods"))
        if names:
            self.milpa.ok("milpactl", "delete", "pods", *names, "--timeout", f"{timeout_s:.0f}s")
        wait_until(lambda: not self.running(), timeout_s, "all instances are terminated")
        wait_until(lambda: not self.machines.living(), timeout_s, "all machines are off")


@contextlib.contextmanager
def running_bench(folder: Path, moto: MotoServer, **sections: Any) -> Iterator[Bench[Hypervisor]]:
    """A bench whose machines run the real agent. ``sections`` are merged into ``server.yml``."""
    with running_registry(folder / "registry") as registry:
        registry.push(build_busybox_image(folder / "image"), "box:latest")

        def machines(home: Home, account: Account, name: str, network: IPv4Network, bridge: str) -> Hypervisor:
            del home, name
            place = folder / "machines"
            return Hypervisor(moto.url, account, place, bench_network(bridge, network, place, registry.port))

        with _running(folder, moto, machines, sections) as bench:
            bench.milpa.image = f"localhost:{registry.port}/box:latest"
            yield bench


@contextlib.contextmanager
def hollow_bench(folder: Path, moto: MotoServer, **sections: Any) -> Iterator[Bench[HollowRack]]:
    """A bench for many: hollow agents answer for the machines."""

    def machines(home: Home, account: Account, name: str, network: IPv4Network, bridge: str) -> HollowRack:
        authority = CertificateAuthority.create(name)
        home.certs.mkdir(parents=True)
        (home.certs / "ca.crt").write_bytes(authority.pair.cert)
        (home.certs / "ca.key").write_bytes(authority.pair.key)
        place = folder / "machines"
        return HollowRack(moto.url, account, place, bench_network(bridge, network, place, free_port()), authority)

    with _running(folder, moto, machines, sections) as bench:
        bench.milpa.image = "localhost:5000/box:latest"
        yield bench


MakeMachines = Callable[[Home, Account, str, IPv4Network, str], Machines]


@contextlib.contextmanager
def _running(
    folder: Path, moto: MotoServer, make: "MakeMachines[Machines]", sections: dict[str, Any]
) -> Iterator[Bench[Machines]]:
    network, number = free_range(), random.randrange(100_000)
    account = furnish(moto.url, network)
    name, bridge = f"aws-{number}", f"ma{number}"
    home = Home(folder / "home")
    proxy = AwsProxy(moto.url).start()
    machines = make(home, account, name, network, bridge)
    milpa = Cluster(home, 0, free_port(), bridge, environment=environment(proxy.url))
    write_settings(milpa, account, name, sections)
    marks = Marks((str(folder / "home"), str(folder / "machines")), bridge, str(network))
    namespaces: set[str] = set()
    before = 0
    left = ["the machines"]
    try:
        machines.start()
        bench = Bench(proxy, account, machines, milpa, name)
        milpa.ok("milpa", "up")
        yield bench
        namespaces, before = traces(marks).get("namespace", set()), now_in_ticks()
    finally:
        proxy.relent()
        stopped = milpa.milpa("stop")
        said = slips(home)
        down = milpa.milpa("down", "--delete-data")
        owned = owned_in(moto.url, account, name)
        left = machines.stop()
        proxy.stop()
    assert stopped.returncode == 0, stopped.stderr
    assert down.returncode == 0, down.stderr
    assert owned == []
    assert left == []
    assert machines.errors == []
    assert traces(marks) == {}
    assert said == []
    wait_until(lambda: not held(namespaces, before), 10, "namespaces are gone")


def environment(endpoint: str) -> dict[str, str]:
    """What leads the SDK to the bench, and nowhere else."""
    return {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null"}


def write_settings(milpa: Cluster, account: Account, name: str, sections: dict[str, Any]) -> None:
    """``server.yml`` as a user of AWS would write it, with limits for people in a hurry."""
    settings: Object = {
        "clusterName": name,
        "cloud": {"aws": {"region": REGION, "vpcID": account.vpc, "imageOwnerID": OWNER}},
        "nodes": {"bootImageTags": IMAGE_TAGS},
        "controllers": {"apiHost": "127.0.0.1", "apiPort": milpa.api_port},
        "limits": {"stopGraceS": 1, "pollIntervalS": 2, "gcIntervalS": 5, "gcMinAgeS": 5},
    }
    for section, changes in sections.items():
        settings[section] = settings.get(section, {}) | changes
    milpa.home.etc.mkdir(parents=True)
    milpa.home.server_yml.write_text(json.dumps(settings))


def tags_of(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}


def owned_in(url: str, account: Account, name: str) -> list[str]:
    """What a cluster of that name still has in the account."""
    ec2 = client("ec2", url)
    vpc = [{"Name": "vpc-id", "Values": [account.vpc]}]
    groups = [one["GroupName"] for one in ec2.describe_security_groups(Filters=vpc)["SecurityGroups"]]
    state = [{"Name": "instance-state-name", "Values": ["running"]}]
    reservations = ec2.describe_instances(Filters=[*vpc, *state])["Reservations"]
    running = [one["InstanceId"] for group in reservations for one in group["Instances"]]
    dynamodb = client("dynamodb", url)
    locks = [str(item) for item in dynamodb.scan(TableName=LOCK_TABLE)["Items"] if name in str(item)]
    return [group for group in groups if group != "default"] + running + locks


def slips(home: Home) -> list[str]:
    """Lines in the controllers' logs that no fault from outside may bring about."""
    lines = [line for path in sorted(home.log.glob("*.log")) for line in path.read_text().splitlines()]
    return [line for line in lines if any(sign in line for sign in SLIPS)]


def free_range() -> IPv4Network:
    """A range for a VPC and its bridge; tests may run next to each other."""
    while True:
        network = IPv4Network(f"10.{random.randrange(200, 220)}.{random.randrange(16) * 16}.0/20")
        if not any(taken.overlaps(network) for taken, _ in used_ranges()):
            return network
