"""``milpa up`` where another installation has the cluster's name: refused, until that one is dead and is taken over."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.aws.cluster_lock import DEAD_AFTER, TABLE
from milpa_ray.paths import Home
from shards.installation import Installation
from tests.aws.account import Account, client
from tests.aws.bench import environment, write_settings
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy
from tests.e2e.drills import Cluster
from tests.oci import free_port
from tests.shards.installation import Milpa
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
def milpa(tmp_path: Path, account: Account, cluster: str, proxy: AwsProxy) -> Iterator[Milpa]:
    """Not up yet; afterwards nothing of it is left."""
    proxy.throttle = None
    made = Cluster(
        Home(tmp_path / "home"), 0, free_port(), f"ma{random.randrange(100_000)}", environment=environment(proxy.url)
    )
    write_settings(made, account, cluster, {})
    yield made
    down = made.milpa("down", "--delete-data")
    assert down.returncode == 0, down.stderr
    assert Installation(made.home).leftovers() == []


def item(owner: str, heard: datetime, cluster: str) -> dict[str, Any]:
    return {
        "clusterName": {"S": cluster},
        "owner": {"S": owner},
        "host": {"S": "elsewhere"},
        "heard": {"S": heard.isoformat()},
    }


@pytest.mark.slow
def test_a_taken_name_is_refused_and_a_dead_one_taken_over(
    milpa: Milpa, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    dynamodb = client("dynamodb", moto.url)
    if TABLE not in dynamodb.list_tables()["TableNames"]:
        dynamodb.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "clusterName", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "clusterName", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    now = datetime.now(UTC)
    dynamodb.put_item(TableName=TABLE, Item=item("theirs", now, cluster))

    refused = milpa.milpa("up")
    assert refused.returncode == 1
    assert f"cluster name '{cluster}' is taken" in refused.stderr
    assert "cluster theirs on host elsewhere" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert Installation(milpa.home).leftovers() == []

    dynamodb.put_item(TableName=TABLE, Item=item("theirs", now - 2 * DEAD_AFTER, cluster))
    taken = milpa.milpa("up", "--take-over-name")
    assert taken.returncode == 0, taken.stderr
    assert "is ours" in taken.stderr
    status = milpa.milpa("status")
    assert (status.returncode, "the cloud" in status.stderr) == (0, False)

    proxy.fail("PutItem", "ServiceUnavailable", times=None)
    proxy.fail("DescribeInstances", "ServiceUnavailable", times=None)
    assert milpa.milpa("stop").returncode == 0
    again = milpa.milpa("up")
    assert "could not be claimed yet" in again.stderr
    wait_until(lambda: "holding the cluster's name has failed since" in milpa.milpa("status").stderr, 30.0)
    proxy.relent()

    assert milpa.milpa("down", "--delete-data").returncode == 0
    assert "Item" not in dynamodb.get_item(TableName=TABLE, Key={"clusterName": {"S": cluster}})
