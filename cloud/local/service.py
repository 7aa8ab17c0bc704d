"""The hypervisor's gRPC service: translates between the wire and the fleet, and plays the API's own faults.

Errors go out as a gRPC status whose details read ``<cloud error code>: <message>``; ``cloud.local.client`` turns them
back into the domain's errors.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, NoReturn, TypeAlias

import grpc

from cloud.local.faults import FaultKind
from cloud.local.fleet import Fleet
from cloud.local.proto import hypervisor_pb2 as pb
from cloud.local.proto import hypervisor_pb2_grpc
from milpa_ray.errors import LaunchRejected, NoCapacity
from milpa_ray.ports import Instance, LaunchCall

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class HypervisorService(hypervisor_pb2_grpc.HypervisorServicer):
    """``on_shutdown(keep_instances)`` is called once a client asks the hypervisor to end."""

    def __init__(self, fleet: Fleet, on_shutdown: Callable[[bool], None]) -> None:
        self._fleet = fleet
        self._on_shutdown = on_shutdown

    async def Launch(self, request: pb.LaunchRequest, context: Context) -> pb.InstancesReply:  # noqa: N802
        await self._strike(context, "launch")
        call = LaunchCall(
            token=request.token,
            count=request.count,
            instance_type=request.instance_type,
            zone=request.zone,
            spot=request.spot,
            image=request.image,
            private_ip_only=request.private_ip_only,
            volume_gib=request.volume_gib,
            user_data=request.user_data,
            tags=dict(request.tags),
        )
        try:
            launched = self._fleet.launch(call)
        except LaunchRejected as error:
            await _fail(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except NoCapacity as error:
            await _fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        await self._lose(context, "launch")
        return _reply(launched)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.InstancesReply:  # noqa: N802
        await self._strike(context, "list")
        return _reply(self._fleet.describe(request.cluster))

    async def Terminate(self, request: pb.TerminateRequest, context: Context) -> pb.TerminateReply:  # noqa: N802
        await self._strike(context, "terminate")
        states = self._fleet.terminate(request.ids)
        await self._lose(context, "terminate")
        return pb.TerminateReply(states={instance_id: state.value for instance_id, state in states.items()})

    async def SetFaults(self, request: pb.FaultsRequest, context: Context) -> pb.FaultsReply:  # noqa: N802
        try:
            at_once = self._fleet.faults.apply(request.json)
        except ValueError as error:
            await _fail(context, grpc.StatusCode.INVALID_ARGUMENT, f"InvalidParameterValue: {error}")
        for fault in at_once:
            if fault.kind is FaultKind.SPOT_INTERRUPTION:
                self._fleet.interrupt(fault)
            else:
                self._fleet.vanish(fault.instance)
        return pb.FaultsReply(json=self._fleet.faults.dump())

    async def Shutdown(self, request: pb.ShutdownRequest, context: Context) -> pb.ShutdownReply:  # noqa: N802
        # Later, so that this call is answered first.
        asyncio.get_running_loop().call_soon(self._on_shutdown, request.keep_instances)
        return pb.ShutdownReply()

    async def _strike(self, context: Context, call: str) -> None:
        """Errors that come before any effect."""
        if self._fleet.faults.take(FaultKind.THROTTLE, call=call):
            await _fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "RequestLimitExceeded: scripted")
        fault = self._fleet.faults.take(FaultKind.API_ERROR, call=call)
        if fault is not None:
            await _fail(context, grpc.StatusCode.INTERNAL, f"{fault.code or 'InternalError'}: scripted")

    async def _lose(self, context: Context, call: str) -> None:
        """Errors that come after the effect."""
        if self._fleet.faults.take(FaultKind.LOST_RESPONSE, call=call):
            await _fail(context, grpc.StatusCode.UNAVAILABLE, "Unavailable: the response was lost (scripted)")


async def _fail(context: Context, status: grpc.StatusCode, details: str) -> NoReturn:
    abort: Awaitable[NoReturn] = context.abort(status, details)
    await abort
    raise AssertionError("abort raises")


def _reply(instances: list[Instance]) -> pb.InstancesReply:
    """What the protocol has no field for (security groups) no local instance has."""
    known = pb.Instance.DESCRIPTOR.fields_by_name.keys()
    told = [{name: value for name, value in asdict(instance).items() if name in known} for instance in instances]
    return pb.InstancesReply(instances=[pb.Instance(**facts) for facts in told])
