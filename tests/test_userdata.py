"""EC2 takes 16 KB of user data; at least 12 KB of it are the user's, however little his text can be compressed."""

import random
import string

import pytest

from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import bootstrap_identity
from milpa_ray.userdata import MAX_USER_DATA, UserData

USERS_SHARE = 12 * 1024


@pytest.fixture(scope="module")
def ours() -> UserData:
    """As a launch of the longest cluster name has it, before the user's file is added."""
    cluster, batch = "c" * 40, "5f0c2b1e-9f4a-4c58-8d64-0a8f6f1f2b3d"
    authority = CertificateAuthority.create(cluster)
    pair = authority.issue([bootstrap_identity(batch)], server=True, client=False)
    return UserData(cluster, batch, authority.pair.cert.decode(), pair.cert.decode(), pair.key.decode())


def noise(alphabet: str, size: int) -> str:
    """Text of ``size`` bytes that compresses as badly as text of this alphabet can."""
    rng, text = random.Random(1), ""
    while len(text.encode()) < size:
        text += rng.choice(alphabet)
    return text


def test_our_own_part_leaves_the_user_his_share(ours: UserData) -> None:
    assert len(ours.pack()) <= MAX_USER_DATA - USERS_SHARE


@pytest.mark.parametrize(
    "alphabet",
    [string.printable, string.ascii_letters + string.digits + "+/", '\\"\n\t', "äöüßéèñçøåЖдлбыيखগ語字雲端節點"],
    ids=["printable", "base64", "escapes", "other scripts"],
)
def test_12_kb_of_any_text_fit(ours: UserData, alphabet: str) -> None:
    text = noise(alphabet, USERS_SHARE)
    full = UserData(ours.cluster, ours.batch, ours.ca, ours.cert, ours.key, text)
    assert UserData.unpack(full.pack()) == full


def test_what_does_not_fit_is_refused_with_a_remedy(ours: UserData) -> None:
    text = noise(string.printable, 3 * USERS_SHARE)
    with pytest.raises(ValueError, match="shorten the cloud-init file"):
        UserData(ours.cluster, ours.batch, ours.ca, ours.cert, ours.key, text).pack()


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh", b"\x1f\x8b\x08garbage"])
def test_what_is_not_ours_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="user data"):
        UserData.unpack(data)
