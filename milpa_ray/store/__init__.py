"""The store: the only truth. ``port`` has the contract, ``memory`` and ``etcd`` fulfil it."""
