"""What a transaction may be: etcd's limits, checked before anything is sent, the same for every store.

Sizes are upper estimates of the encoded request; they need no exactness, only to stay below etcd's own limit.
"""

from milpa_ray.store.port import MAX_TXN_BYTES, MAX_TXN_OPS, Compare, Delete, Op, Put, Txn

_FIELD_BYTES = 40
"""Tags, lengths and numbers around one key in a request."""


def compare_bytes(compare: Compare) -> int:
    """Upper estimate of a compare's size, with the read that answers when it fails."""
    return 2 * (_text_bytes(compare.key) + _FIELD_BYTES)


def op_bytes(op: Op) -> int:
    """Upper estimate of an op's size."""
    size = _text_bytes(op.key) + _FIELD_BYTES
    return size + (len(op.value) if isinstance(op, Put) else _text_bytes(op.end))


def check_txn(txn: Txn) -> None:
    """Refuses what etcd would refuse.

    Raises:
        ValueError: too many compares or ops, too large, an empty key, or a key written twice.
    """
    if len(txn.compares) > MAX_TXN_OPS or len(txn.ops) > MAX_TXN_OPS:
        raise ValueError(
            f"a transaction takes at most {MAX_TXN_OPS} compares and ops, "
            f"not {len(txn.compares)} and {len(txn.ops)}; split it"
        )
    size = sum(map(compare_bytes, txn.compares)) + sum(map(op_bytes, txn.ops))
    if size > MAX_TXN_BYTES:
        raise ValueError(f"a transaction takes at most {MAX_TXN_BYTES} bytes, not about {size}; split it")
    if not all(compare.key for compare in txn.compares):
        raise ValueError("a compare has an empty key")
    _check_written_once(txn.ops)


def _check_written_once(ops: tuple[Op, ...]) -> None:
    single: set[str] = set()
    ranges: list[Delete] = []
    for op in ops:
        if not op.key:
            raise ValueError("an op has an empty key")
        if isinstance(op, Delete) and op.end:
            ranges.append(op)
        elif op.key in single:
            raise ValueError(f"key {op.key!r} is written twice in one transaction")
        else:
            single.add(op.key)
    for index, gone in enumerate(ranges):
        if any(gone.key <= key < gone.end for key in single):
            raise ValueError(f"the range from {gone.key!r} is deleted and written in one transaction")
        if any(gone.key < other.end and other.key < gone.end for other in ranges[:index]):
            raise ValueError(f"the range from {gone.key!r} is deleted twice in one transaction")


def _text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
