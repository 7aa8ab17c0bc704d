"""What every implementation of the compute port must do. A test module inherits ``ComputeContract`` and gives the
fixtures ``compute`` and ``offer`` (an instance type with a zone that has it)."""

# A call is prepared once and then made, however often, as it is: that is how the controllers do it.

import secrets
from collections.abc import Sequence
from dataclasses import replace

import pytest

from milpa_ray.errors import LaunchRejected, NoCapacity
from milpa_ray.ports import Compute, Instance, InstanceState, LaunchCall
from tests.waiting import eventually

TERMINATING = (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED)


def launch_call(instance_type: str = "t3.nano", zone: str = "us-east-1a", count: int = 1, **more: object) -> LaunchCall:
    """A launch with a token of its own."""
    call = LaunchCall(secrets.token_hex(8), count, instance_type, zone, tags={"milpa-cluster": "test"})
    return replace(call, **more)  # type: ignore[arg-type]


async def launch(compute: Compute, call: LaunchCall) -> Sequence[Instance]:
    """Prepares and makes the call."""
    return await compute.launch(await compute.prepare(call))


class ComputeContract:
    async def test_preparing_keeps_what_is_asked_for(self, compute: Compute, offer: tuple[str, str]) -> None:
        call = launch_call(*offer, count=2, spot=True, user_data=b"data", volume_gib=9)
        prepared = await compute.prepare(call)
        kept = ("token", "count", "instance_type", "zone", "spot", "user_data", "private_ip_only")
        assert [getattr(prepared, name) for name in kept] == [getattr(call, name) for name in kept]
        assert prepared.volume_gib >= 9
        assert call.tags.items() <= prepared.tags.items()

    async def test_launch_answers_one_instance_per_index_with_all_its_facts(
        self, compute: Compute, offer: tuple[str, str]
    ) -> None:
        call = launch_call(*offer, count=3, spot=True, user_data=b"data")
        made = await launch(compute, call)
        assert sorted(instance.launch_index for instance in made) == [0, 1, 2]
        assert len({instance.id for instance in made}) == 3
        for instance in made:
            assert (instance.token, instance.instance_type, instance.zone) == (call.token, *offer)
            assert instance.spot
            assert instance.tags["milpa-cluster"] == "test"
            assert instance.launched_at > 0

    async def test_the_same_token_launches_nothing_new(self, compute: Compute, offer: tuple[str, str]) -> None:
        call = await compute.prepare(launch_call(*offer, count=2))
        first = await compute.launch(call)
        second = await compute.launch(call)
        assert [instance.id for instance in first] == [instance.id for instance in second]
        listed = [instance for instance in await compute.list_instances() if instance.token == call.token]
        assert len(listed) == 2

    async def test_the_same_token_with_another_call_is_refused(self, compute: Compute, offer: tuple[str, str]) -> None:
        call = await compute.prepare(launch_call(*offer))
        await compute.launch(call)
        with pytest.raises(LaunchRejected) as caught:
            await compute.launch(replace(call, count=2))
        assert caught.value.code == "IdempotentParameterMismatch"

    async def test_an_instance_comes_to_run_and_has_addresses(self, compute: Compute, offer: tuple[str, str]) -> None:
        (made,) = await launch(compute, launch_call(*offer))

        async def running() -> bool:
            return any(
                instance.id == made.id and instance.state is InstanceState.RUNNING and instance.private_ip
                for instance in await compute.list_instances()
            )

        await eventually(running)

    async def test_a_private_instance_has_no_public_address(self, compute: Compute, offer: tuple[str, str]) -> None:
        (made,) = await launch(compute, launch_call(*offer, private_ip_only=True))
        assert (made.public_ip, made.public_dns) == ("", "")

    async def test_terminate_is_idempotent_and_passes_over_unknown_ids(
        self, compute: Compute, offer: tuple[str, str]
    ) -> None:
        (made,) = await launch(compute, launch_call(*offer))
        states = await compute.terminate([made.id, "i-00000000000000000"])
        assert set(states) == {made.id}
        assert states[made.id] in TERMINATING
        again = await compute.terminate([made.id])
        assert again[made.id] in TERMINATING

    async def test_a_terminated_instance_stays_listed(self, compute: Compute, offer: tuple[str, str]) -> None:
        (made,) = await launch(compute, launch_call(*offer))
        await compute.terminate([made.id])

        async def terminated() -> bool:
            listed = {instance.id: instance.state for instance in await compute.list_instances()}
            return listed[made.id] is InstanceState.TERMINATED

        await eventually(terminated)

    async def test_an_unknown_type_is_refused(self, compute: Compute, offer: tuple[str, str]) -> None:
        with pytest.raises(LaunchRejected) as caught:
            await launch(compute, launch_call("t3.enormous", offer[1]))
        assert caught.value.code == "InvalidParameterValue"

    async def test_an_unknown_zone_is_refused(self, compute: Compute, offer: tuple[str, str]) -> None:
        with pytest.raises((LaunchRejected, NoCapacity)):
            await launch(compute, launch_call(offer[0], "us-east-1z"))

    async def test_labels_of_a_running_instance_and_of_unknown_ones(
        self, compute: Compute, offer: tuple[str, str]
    ) -> None:
        (made,) = await launch(compute, launch_call(*offer))
        await compute.label({made.id: {"Name": "web"}, "i-00000000000000000": {"Name": "gone"}})
        await compute.label({})
        listed = {instance.id: instance for instance in await compute.list_instances()}
        assert listed[made.id].tags.items() >= made.tags.items()

    async def test_a_volume_may_be_grown_twice(self, compute: Compute, offer: tuple[str, str]) -> None:
        (made,) = await launch(compute, launch_call(*offer, volume_gib=9))
        await compute.grow_volume(made.id, 12)
        await compute.grow_volume(made.id, 12)
        await compute.grow_volume(made.id, 9)
