"""Boot images: the newest of the owner that has all tags, for the right architecture."""

from typing import Any

import pytest

from cloud.aws.images import Images
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudNotReady, CloudUnavailable, LaunchOutdated
from tests.aws.account import OWNER, Account, client, register_image
from tests.aws.proxy import AwsProxy


@pytest.fixture(scope="module")
def ec2(moto: Any, account: Account) -> Any:
    del account  # its image is there, too, and has other tags
    return client("ec2", moto.url)


async def test_the_newest_is_taken(aws: AwsSession) -> None:
    assert (await Images(aws, "137112412989", {"purpose": "dated"}).newest("amd64")).id == "ami-000000000000000aa"


async def test_all_tags_and_the_architecture_count_and_one_question_does(
    aws: AwsSession, ec2: Any, proxy: AwsProxy
) -> None:
    tags = {"company": "acme", "version": "1"}
    amd64 = register_image(ec2, "amd64", tags)
    arm64 = register_image(ec2, "arm64", tags, "arm64")
    register_image(ec2, "half", {"company": "acme"})
    register_image(ec2, "other version", {"company": "acme", "version": "2"})
    images = Images(aws, OWNER, tags)
    assert [(await images.newest("amd64")).id for _ in range(3)] == [amd64] * 3
    assert (await images.by_id(amd64)).root_gib == 15
    assert proxy.counts()["DescribeImages"] == 1
    assert (await images.newest("arm64")).id == arm64


async def test_a_new_image_is_taken_up_after_a_while(
    aws: AwsSession, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.aws.images.KEPT_S", 0.0)
    images, tags = Images(aws, OWNER, {"company": "renewed"}), {"company": "renewed"}
    first = register_image(ec2, "first", tags)
    assert (await images.newest("amd64")).id == first
    ec2.deregister_image(ImageId=first)
    second = register_image(ec2, "second", tags)
    assert (await images.newest("amd64")).id == second


async def test_images_of_other_owners_do_not_count(aws: AwsSession, ec2: Any) -> None:
    register_image(ec2, "ours", {"company": "ours"})
    with pytest.raises(CloudNotReady, match="owner 210987654321"):
        await Images(aws, "210987654321", {"company": "ours"}).newest("amd64")


async def test_no_image_names_owner_tags_and_remedy(aws: AwsSession) -> None:
    with pytest.raises(CloudNotReady, match=r"arm64 image of this account in us-east-1.*\(company=nobody\).*aws.md"):
        await Images(aws, "", {"company": "nobody"}).newest("arm64")


async def test_without_tags_nothing_is_booted(aws: AwsSession, proxy: AwsProxy) -> None:
    with pytest.raises(CloudNotReady, match="bootImageTags is empty"):
        await Images(aws, "", {}).newest("amd64")
    assert proxy.counts()["DescribeImages"] == 0


async def test_an_image_that_is_gone_makes_its_launch_outdated(aws: AwsSession) -> None:
    with pytest.raises(LaunchOutdated):
        await Images(aws, "", {"a": "b"}).by_id("ami-00000000000000000")


async def test_a_failed_question_is_asked_again(aws: AwsSession, ec2: Any, proxy: AwsProxy) -> None:
    image = register_image(ec2, "late", {"company": "late"})
    images = Images(aws, "", {"company": "late"})
    proxy.fail("DescribeImages", "InternalError")
    with pytest.raises(CloudUnavailable):
        await images.newest("amd64")
    assert (await images.newest("amd64")).id == image
