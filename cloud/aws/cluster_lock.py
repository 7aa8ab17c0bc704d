"""The register of cluster names: one item per name in the DynamoDB table ``MilpaClusters``.

An item says whose the name is (the cluster's uuid), from where (a host, for people) and when it was last heard of.
Times are the holders' clocks; they only tell a living holder from one that has long been dead, so clocks may differ by
minutes.
"""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cloud.aws.session import AwsSession
from milpa_ray.clock import Clock
from milpa_ray.errors import CloudRefused, CloudUnavailable, NameTaken

TABLE = "MilpaClusters"
DEAD_AFTER = timedelta(minutes=10)
"""Silence after which a holder counts as dead: its name can be taken over."""
TABLE_TIMEOUT_S = 60.0
_TABLE_POLL_S = 1.0
_GONE = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a name. ``owner`` is a cluster's uuid; ``stamp`` is ``heard`` as the register has it."""

    owner: str
    host: str
    heard: datetime
    stamp: str

    def dead(self, now: datetime) -> bool:
        return now - self.heard > DEAD_AFTER

    def told(self, now: datetime) -> str:
        """For people."""
        silent_s = max(0.0, (now - self.heard).total_seconds())
        return f"cluster {self.owner} on host {self.host or 'unknown'}, last heard of {_ago(silent_s)} ago"


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class ClusterLock:
    """Implements ``milpa_ray.ports.NameLock`` for one name."""

    def __init__(self, aws: AwsSession, cluster: str, clock: Clock, host: str = "") -> None:
        """``host`` is told to people of other clusters; this machine's name by default."""
        self._aws = aws
        self._cluster = cluster
        self._clock = clock
        self._host = host or socket.gethostname()

    async def holder(self) -> Holder | None:
        """Who has the name; None when nobody has. Makes nothing.

        Raises:
            CloudThrottled, CloudUnavailable, CloudNotReady, CloudRefused
        """
        try:
            answer = await self._aws.call("dynamodb", "GetItem", TableName=TABLE, Key=self._key, ConsistentRead=True)
        except CloudRefused as error:
            if error.code == _GONE:
                return None
            raise
        item = answer.get("Item")
        return _holder(item) if item else None

    async def hold(self, owner: str) -> None:
        """As ``NameLock.hold``."""
        await self._put(
            owner,
            ConditionExpression="attribute_not_exists(clusterName) OR #owner = :owner",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={":owner": {"S": owner}},
        )

    async def take_over(self, owner: str) -> None:
        """Takes the name from a dead holder; from nobody, or from oneself, as ``hold`` does.

        Raises:
            NameTaken: its holder is alive.
        """
        found = await self.holder()
        now = self._clock.now()
        if found is None or found.owner == owner:
            await self.hold(owner)
        elif not found.dead(now):
            raise NameTaken(
                f"cluster name {self._cluster!r} cannot be taken over: {found.told(now)} is alive. Stop it and try "
                f"again {DEAD_AFTER.total_seconds() / 60:.0f} minutes after that, or choose another clusterName"
            )
        else:
            # Only from exactly the holder that was looked at: it may have come back, or another may have been faster.
            await self._put(
                owner,
                ConditionExpression="#owner = :old AND heard = :stamp",
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues={":old": {"S": found.owner}, ":stamp": {"S": found.stamp}},
            )

    async def release(self, owner: str) -> None:
        """As ``NameLock.release``."""
        try:
            await self._aws.call(
                "dynamodb",
                "DeleteItem",
                TableName=TABLE,
                Key=self._key,
                ConditionExpression="#owner = :owner",
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues={":owner": {"S": owner}},
            )
        except CloudRefused as error:
            if error.code not in (_GONE, "ConditionalCheckFailedException"):
                raise

    # ------------------------------------------------------------ parts

    @property
    def _key(self) -> dict[str, Any]:
        return {"clusterName": {"S": self._cluster}}

    async def _put(self, owner: str, **condition: Any) -> None:
        item = {
            **self._key,
            "owner": {"S": owner},
            "host": {"S": self._host},
            "heard": {"S": self._clock.now().isoformat()},
        }
        try:
            await self._put_item(item, condition)
        except CloudRefused as error:
            if error.code != "ConditionalCheckFailedException":
                raise
            raise await self._taken() from error

    async def _put_item(self, item: Mapping[str, Any], condition: Mapping[str, Any]) -> None:
        try:
            await self._aws.call("dynamodb", "PutItem", TableName=TABLE, Item=item, **condition)
        except CloudRefused as error:
            if error.code != _GONE:
                raise
            await self._make_table()
            await self._aws.call("dynamodb", "PutItem", TableName=TABLE, Item=item, **condition)

    async def _taken(self) -> NameTaken:
        found = await self.holder()
        now = self._clock.now()
        whose = found.told(now) if found is not None else "another cluster"
        remedy = "choose another clusterName in server.yml"
        if found is not None and found.dead(now):
            remedy += ", or, if that cluster is gone for good, take its name over with 'milpa up --take-over-name'"
        return NameTaken(f"cluster name {self._cluster!r} is taken in this AWS region: {whose}; {remedy}")

    async def _make_table(self) -> None:
        """Makes the table and waits until it can be used.

        Raises:
            CloudUnavailable: it cannot within a minute.
        """
        try:
            await self._aws.call(
                "dynamodb",
                "CreateTable",
                TableName=TABLE,
                KeySchema=[{"AttributeName": "clusterName", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "clusterName", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except CloudRefused as error:
            if error.code != "ResourceInUseException":  # somebody else makes it at this moment
                raise
        try:
            async with asyncio.timeout(TABLE_TIMEOUT_S):
                while True:
                    if await self._table_is_there():
                        return
                    await asyncio.sleep(_TABLE_POLL_S)
        except TimeoutError as error:
            raise CloudUnavailable(f"DynamoDB table {TABLE} is still not usable after {TABLE_TIMEOUT_S:g} s") from error

    async def _table_is_there(self) -> bool:
        try:
            table = (await self._aws.call("dynamodb", "DescribeTable", TableName=TABLE))["Table"]
        except CloudRefused as error:
            if error.code == _GONE:
                return False
            raise
        return bool(table["TableStatus"] == "ACTIVE")


def _holder(item: Mapping[str, Any]) -> Holder:
    """Somebody else's item may lack what ours have; then it is as good as dead."""
    text = item.get("heard", {}).get("S", "")
    try:
        heard = datetime.fromisoformat(text)
    except ValueError:
        heard = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return Holder(item.get("owner", {}).get("S", ""), item.get("host", {}).get("S", ""), heard, text)
