"""Image names by Docker's conventions."""

import pytest

from nodeagent.image_ref import ImageRef, is_loopback, login_host

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("library/python:3.6-alpine", "docker.io/library/python:3.6-alpine"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("elotl/helloserver", "docker.io/elotl/helloserver:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x/y:1.0", "localhost:5000/x/y:1.0"),
        ("myregistry.local:5000/testing/test-image", "myregistry.local:5000/testing/test-image:latest"),
        (f"quay.io/a/b:tag@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        ("1.dkr.ecr.us-east-1.amazonaws.com/img", "1.dkr.ecr.us-east-1.amazonaws.com/img:latest"),
    ],
)
def test_names_mean_what_docker_users_mean(text: str, full: str) -> None:
    assert str(ImageRef.parse(text)) == full


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Nginx", "lower case"),
        ("", "no repository name"),
        ("a b", "no repository name"),
        ("nginx:", "no tag"),
        ("a/nginx:b/c", "no tag"),
        ("nginx:a/b", "no registry"),
        ("nginx@sha256:12", "64 hex digits"),
        ("--help", "no repository name"),
    ],
)
def test_what_is_no_name_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ImageRef.parse(text)


def test_localhost_moves_and_others_stay() -> None:
    assert str(ImageRef.parse("localhost:5000/x").moved("10.210.0.1")) == "10.210.0.1:5000/x:latest"
    assert str(ImageRef.parse("127.0.0.1:80/x").moved("10.210.0.1")) == "10.210.0.1:80/x:latest"
    assert str(ImageRef.parse("localhost/x").moved("10.210.0.1")) == "10.210.0.1/x:latest"
    assert str(ImageRef.parse("quay.io/x").moved("10.210.0.1")) == "quay.io/x:latest"
    assert str(ImageRef.parse("localhost:5000/x").moved("")) == "localhost:5000/x:latest"


def test_loopback_and_login_hosts() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.3.2.1", "::1", "10.0.0.1", "quay.io")] == [True] * 3 + [
        False
    ] * 2
    assert login_host("https://index.docker.io/v1/") == "docker.io"
    assert login_host("privatereg.example.com:5000") == "privatereg.example.com:5000"
