"""Compute port on the local cloud: asks the hypervisor daemon over its Unix socket.

Translates gRPC errors into the domain's and retries nothing: the caller decides whether it may still ask.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from cloud.local.proto import hypervisor_pb2 as pb
from cloud.local.proto import hypervisor_pb2_grpc
from milpa_ray.errors import CloudThrottled, CloudUnavailable, LaunchRejected, MilpaError, NoCapacity
from milpa_ray.ports import Instance, InstanceState, LaunchCall

CALL_TIMEOUT_S = 10.0
MAX_MESSAGE_BYTES = 64 << 20

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A daemon that was restarted is to be found at once, not after gRPC's own back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class LocalCompute:
    """Implements ``milpa_ray.ports.Compute``. Build it inside a running event loop; cheap, nothing is sent before
    the first call."""

    def __init__(self, socket_path: str | Path, cluster: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """``cluster`` is the value of the tag ``milpa-cluster`` of our instances; ``timeout_s`` is per call."""
        self._channel = grpc.aio.insecure_channel(f"unix:{Path(socket_path).absolute()}", options=_CHANNEL_OPTIONS)
        self._stub = hypervisor_pb2_grpc.HypervisorStub(self._channel)  # type: ignore[no-untyped-call]
        self._cluster = cluster
        self._timeout_s = timeout_s

    async def prepare(self, call: LaunchCall) -> LaunchCall:
        """As ``Compute.prepare``: the hypervisor has one image, one subnet and no groups to choose from."""
        return call

    async def launch(self, call: LaunchCall) -> Sequence[Instance]:
        """As ``Compute.launch``."""
        request = pb.LaunchRequest(
            token=call.token,
            count=call.count,
            instance_type=call.instance_type,
            zone=call.zone,
            spot=call.spot,
            image=call.image,
            private_ip_only=call.private_ip_only,
            volume_gib=call.volume_gib,
            user_data=call.user_data,
            tags=call.tags,
        )
        reply = await self._ask(self._stub.Launch, request)
        return [_instance(instance) for instance in reply.instances]

    async def list_instances(self) -> Sequence[Instance]:
        """As ``Compute.list_instances``."""
        reply = await self._ask(self._stub.List, pb.ListRequest(cluster=self._cluster))
        return [_instance(instance) for instance in reply.instances]

    async def terminate(self, instance_ids: Sequence[str]) -> Mapping[str, InstanceState]:
        """As ``Compute.terminate``."""
        reply = await self._ask(self._stub.Terminate, pb.TerminateRequest(ids=instance_ids))
        return {instance_id: InstanceState(state) for instance_id, state in reply.states.items()}

    async def label(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """As ``Compute.label``: there is no console in which anybody would see them."""

    async def grow_volume(self, instance_id: str, gib: int) -> None:
        """As ``Compute.grow_volume``: an instance's disk is the machine's, as large as that is."""

    async def set_faults(self, request: str) -> str:
        """Scripted faults (JSON, see ``cloud.local.faults``); returns the rules in force.

        Raises:
            LaunchRejected: the request is wrong.
        """
        reply = await self._ask(self._stub.SetFaults, pb.FaultsRequest(json=request))
        return str(reply.json)

    async def close(self) -> None:
        """Ends the channel."""
        await self._channel.close(None)

    async def _ask(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _translate(error.code(), error.details() or "") from error


def _translate(status: grpc.StatusCode, details: str) -> MilpaError:
    code, separator, message = details.partition(": ")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and separator:
        if code.startswith(("RequestLimitExceeded", "Throttling")):
            return CloudThrottled(details)
        return NoCapacity(code, message)
    if status is grpc.StatusCode.INVALID_ARGUMENT and separator:
        return LaunchRejected(code, message)
    return CloudUnavailable(f"local cloud: {status.name.lower()}: {details}")


def _instance(found: pb.Instance) -> Instance:
    return Instance(
        id=found.id,
        state=InstanceState(found.state),
        token=found.token,
        launch_index=found.launch_index,
        instance_type=found.instance_type,
        zone=found.zone,
        spot=found.spot,
        private_ip=found.private_ip,
        private_dns=found.private_dns,
        public_ip=found.public_ip,
        public_dns=found.public_dns,
        launched_at=found.launched_at,
        tags=dict(found.tags),
    )
