"""The API server: reads from a watch cache, writes by compare-and-swap. Any number run side by side, without a leader.

``api.ApiServer`` is the whole; the other modules are its parts and know nothing of each other's gRPC.
"""
