"""Controllers: the loops that keep reality and the store in step. They execute; ``planner`` decides.

``shard`` serves a range of slots, ``coordinator`` does the leader's duties. Both are plain classes over the ports, so
that a test or a simulation runs them without Ray.
"""
