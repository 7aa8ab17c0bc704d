"""Pure planning: a frozen snapshot in, intents out. No I/O, no clock, no randomness in here.

``shard`` plans pods and their nodes, ``launches`` what the coordinator asks of the cloud, ``garbage`` what it may
collect, ``membership`` who owns which slots. ``check`` refuses plans that would break an invariant.
"""
