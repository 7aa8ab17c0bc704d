"""What ``ray start`` has no option for, through its own hook (``RAY_START_HOOK``). Ray imports this, not we."""

from typing import Any


def adjust(ray_params: Any, head: bool) -> None:
    """Called by ``ray start`` with the parameters of the node that it is about to start.

    Ray Client would listen on port 10001 and run whatever it is sent; the option for its port refuses every value that
    would turn it off.
    """
    ray_params.ray_client_server_port = None
