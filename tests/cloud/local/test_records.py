"""What is read back from disk, after crashes at bad moments too."""

from pathlib import Path

import pytest

from cloud.local.records import InstanceRecord, LaunchRecord, Records, boot_id
from milpa_ray.ports import InstanceState


@pytest.fixture
def records(tmp_path: Path) -> Records:
    made = Records(tmp_path / "cloud")
    made.make_directories()
    return made


def instance(name: str, token: str = "token") -> InstanceRecord:
    return InstanceRecord(
        id=name,
        token=token,
        launch_index=0,
        instance_type="t3.nano",
        zone="us-east-1a",
        spot=True,
        private_ip="10.0.0.2",
        private_dns="ip-10-0-0-2.ec2.internal",
        public_ip="",
        public_dns="",
        launched_at=1.0,
        tags={"a": "b"},
    )


def test_records_come_back_as_they_were(records: Records) -> None:
    stored = instance("i-1")
    stored.move_to(InstanceState.RUNNING, 2.0)
    records.add_instance(stored, b"data")
    launch = LaunchRecord("token", "print", ["i-1"], 1.0)
    records.save_launch(launch)
    assert Records(records.root).read() == ({"i-1": stored}, {"token": launch})
    assert (records.instance_dir("i-1") / "user-data").read_bytes() == b"data"


def test_a_launch_that_was_never_answered_is_dropped(records: Records) -> None:
    records.add_instance(instance("i-1"), b"")
    records.instance_dir("i-2").mkdir()  # killed before the record was written
    assert records.read() == ({}, {})
    assert list(records.instances_dir.iterdir()) == []


def test_a_torn_write_leaves_the_old_record(records: Records) -> None:
    records.add_instance(instance("i-1"), b"")
    records.save_launch(LaunchRecord("token", "print", ["i-1"], 1.0))
    (records.instance_dir("i-1") / ".instance.json.new").write_text('{"id": "i-')
    assert set(records.read()[0]) == {"i-1"}


def test_keys_of_another_version_are_passed_over(records: Records) -> None:
    records.add_instance(instance("i-1"), b"")
    records.save_launch(LaunchRecord("token", "print", ["i-1"], 1.0))
    path = records.instance_dir("i-1") / "instance.json"
    path.write_text(path.read_text().replace("{", '{"colour": "red", ', 1))
    assert set(records.read()[0]) == {"i-1"}


def test_a_pid_of_another_boot_of_the_machine_is_nobodys(records: Records) -> None:
    for name, boot in (("i-1", boot_id()), ("i-2", "11111111-2222-3333-4444-555555555555")):
        stored = instance(name)
        stored.pid, stored.start_time, stored.boot_id = 4711, 99, boot
        records.add_instance(stored, b"")
    records.save_launch(LaunchRecord("token", "print", ["i-1", "i-2"], 1.0))
    assert {name: record.pid for name, record in records.read()[0].items()} == {"i-1": 4711, "i-2": 0}


def test_strip_keeps_the_record_only_and_remove_takes_all(records: Records) -> None:
    records.add_instance(instance("i-1"), b"data")
    (records.instance_dir("i-1") / "state/deep").mkdir(parents=True)
    records.strip_instance("i-1")
    assert [path.name for path in records.instance_dir("i-1").iterdir()] == ["instance.json"]
    records.remove_instance("i-1")
    assert not records.instance_dir("i-1").exists()


@pytest.mark.parametrize("token", ["../../etc/passwd", "a/b", "x" * 300])
def test_any_token_is_a_safe_file_name(records: Records, token: str) -> None:
    records.save_launch(LaunchRecord(token, "print"))
    assert set(records.read()[1]) == {token}
    records.remove_launch(token)
    assert records.read()[1] == {}
