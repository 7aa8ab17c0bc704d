"""Uuids from an injected source of randomness, so that a simulation's are the same for the same seed."""

import random
import uuid


def make_uuid(rng: random.Random) -> str:
    """A random (version 4) uuid as text."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
