"""Numbers that bound and pace the system, as named settings with their units.

Defaults: the manual where it speaks, else the public habits of systems of this kind. Every one can be set in
``server.yml`` under ``limits`` by its camelCase name (``boot_timeout_s`` is ``bootTimeoutS``).
"""

from pydantic import Field

from milpa_ray.api.meta import Model


class Limits(Model):
    """All durations in seconds."""

    boot_timeout_s: float = Field(default=1200.0, gt=0)
    """From Creating until the agent answers; then the node is terminated and replaced."""
    heartbeat_s: float = Field(default=10.0, gt=0)
    """Interval of an agent's heartbeats."""
    call_timeout_s: float = Field(default=3.0, gt=0)
    """Deadline of one call to an agent (a stop has its grace on top)."""
    unhealthy_after_s: float = Field(default=90.0, gt=0)
    """Silence after which the cloud is asked whether the instance still runs."""
    unreachable_terminate_s: float = Field(default=600.0, gt=0)
    """Silence after which a node that the cloud calls running is terminated; its pod waits for the proof."""
    start_failures: int = Field(default=3, ge=1)
    """Failed starts after which a pod is Failed."""
    terminal_pod_kept_s: float = Field(default=180.0, ge=0)
    """How long a pod in a terminal phase, without a parent, is kept."""
    terminated_node_kept_s: float = Field(default=30.0, ge=0)
    """How long a Terminated node stays in the store."""
    stop_grace_s: float = Field(default=30.0, ge=0)
    """Between SIGTERM and SIGKILL of a unit."""
    interruption_margin_s: float = Field(default=15.0, ge=0)
    """What of a spot interruption's notice is kept free after the pod's stop, for its logs and for late clocks."""
    capacity_memory_s: int = Field(default=180, ge=1)
    """How long a failed launch keeps its (capacity type, instance type, zone) from being chosen."""
    capacity_tries: int = Field(default=12, ge=1)
    """So many (instance type, zone) that fit a pod are remembered as full: no more are tried until one is forgotten."""
    gc_interval_s: float = Field(default=60.0, gt=0)
    gc_min_age_s: float = Field(default=30.0, ge=0)
    """An unknown instance must be older than this, and seen twice, before it is condemned."""
    gc_max_unknown_fraction: float = Field(default=0.1, gt=0, le=1)
    """More unknown instances than this part of all: garbage collection stops and asks."""
    reconcile_s: float = Field(default=600.0, gt=0)
    """Interval at which the cloud's rules, records and balancers are looked at anew; and after every takeover."""
    event_ttl_s: int = Field(default=3600, ge=60)
    """How long events and old logs are kept."""
    log_tail_bytes: int = Field(default=4096, ge=0)
    """Saved tail per unit and per agent log."""
    lease_ttl_s: int = Field(default=5, ge=2)
    """Leadership and membership leases."""
    seat_grace_s: float = Field(default=10.0, ge=0)
    """How long a shard whose membership lease has ended keeps its slots, so that its restart moves none."""
    loop_stall_s: float = Field(default=3.0, gt=0)
    """An event loop that has not turned for this long no longer keeps its lease."""
    poll_interval_s: float = Field(default=10.0, gt=0)
    """Interval of the cluster-wide list of instances."""
    launch_batch: int = Field(default=100, ge=1, le=100)
    """Most instances of one launch call (a batch and its nodes must fit one transaction)."""
    connects_in_flight: int = Field(default=64, ge=1)
    """Agents dialled at the same time, per shard; those that a pod waits for and the others count apart."""
    effects_in_flight: int = Field(default=256, ge=1)
    """Agent calls under way at the same time, per shard."""
    retry_first_s: float = Field(default=0.2, gt=0)
    retry_max_s: float = Field(default=30.0, gt=0)
    """First and longest back-off after a retryable error."""
