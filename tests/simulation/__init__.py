"""Deterministic simulation of a whole cluster: the real controllers over a simulated store link, cloud and network.

Everything runs in one event loop under virtual time, driven by one seed: the same seed gives the same run, event by
event. ``python -m tests.simulation SEED -v`` replays one. Nothing here is a product part.
"""
