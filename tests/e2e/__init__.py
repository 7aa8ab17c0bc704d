"""Drills on a whole Milpa: real commands, real signals, real containers."""
