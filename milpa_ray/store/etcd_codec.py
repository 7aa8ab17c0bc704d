"""Between etcd's protobuf messages and the port's types. Pure; values stay bytes."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from aetcd.rpc import kv_pb2, rpc_pb2

from milpa_ray.store.port import Change, Entry, Put, Txn

CHUNK = 1000
"""Keys decoded between two turns of the event loop (about 2 ms)."""


def entry(kv: Any) -> Entry:
    """One key."""
    return Entry(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


async def entries(kvs: Sequence[Any]) -> tuple[Entry, ...]:
    """Many keys, with turns for the event loop in between."""
    if len(kvs) <= CHUNK:
        return tuple(map(entry, kvs))
    found: list[Entry] = []
    for first in range(0, len(kvs), CHUNK):
        found.extend(map(entry, kvs[first : first + CHUNK]))
        await asyncio.sleep(0)
    return tuple(found)


def changes(events: Iterable[Any]) -> list[Change]:
    """A watch's events."""
    return [Change(entry(event.kv), event.type == kv_pb2.Event.DELETE) for event in events]


def txn_request(txn: Txn) -> Any:
    """The transaction; when a compare fails, all compared keys are read instead."""
    return rpc_pb2.TxnRequest(
        compare=[
            rpc_pb2.Compare(
                result=rpc_pb2.Compare.EQUAL,
                target=rpc_pb2.Compare.MOD,
                key=compare.key.encode(),
                mod_revision=compare.mod_revision,
            )
            for compare in txn.compares
        ],
        success=[_request_op(op) for op in txn.ops],
        failure=[
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=compare.key.encode())) for compare in txn.compares
        ],
    )


def _request_op(op: Any) -> Any:
    if isinstance(op, Put):
        return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=op.key.encode(), value=op.value, lease=op.lease))
    return rpc_pb2.RequestOp(
        request_delete_range=rpc_pb2.DeleteRangeRequest(key=op.key.encode(), range_end=op.end.encode())
    )
