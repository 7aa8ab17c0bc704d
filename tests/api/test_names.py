"""Syntax of names and references, with Kubernetes' rules."""

from collections.abc import Callable

import pytest

from milpa_ray.api import names

Rule = Callable[[str], str]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        *[(names.dns_label, text) for text in ("a", "a1", "1a", "a-b", "a" * 63)],
        *[(names.service_name, text) for text in ("a", "a1", "web-1")],
        *[(names.dns_subdomain, text) for text in ("a", "a.b", "1.2", "web-1.example", "a" * 253)],
        *[(names.qualified, text) for text in ("a", "A_b.c", "example.com/a", "app.kubernetes.io/name")],
        *[(names.label_value, text) for text in ("", "a", "A.b_c-1", "1")],
        *[(names.env_name, text) for text in ("A", "_a", "a.b-c", "PATH1")],
        *[(names.data_key, text) for text in ("a", "tls.crt", "A_1-b", "...")],
    ],
)
def test_good(rule: Rule, text: str) -> None:
    assert rule(text) == ""


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        *[(names.dns_label, text) for text in ("", "A", "a_b", "-a", "a-", "a.b", "a\n", "ä", "a" * 64)],
        *[(names.service_name, text) for text in ("", "1a", "a.b", "a-", "a" * 64)],
        *[(names.dns_subdomain, text) for text in ("", "A", ".a", "a..b", "a.", "a/b", "a" * 254)],
        *[(names.qualified, text) for text in ("", "/a", "a/", "a/b/c", "-a", "a" * 64, "B/a", "a b")],
        *[(names.label_value, text) for text in ("-a", "a-", "a b", "a/b", "a\n", "a" * 64)],
        *[(names.env_name, text) for text in ("", "1a", "a=b", "a b", "ä")],
        *[(names.data_key, text) for text in ("", ".", "..", "a/b", "a b")],
    ],
)
def test_bad(rule: Rule, text: str) -> None:
    assert rule(text)


@pytest.mark.parametrize(
    ("rule", "text", "near"),
    [
        (names.dns_label, "My_App", "'my-app'"),
        (names.dns_subdomain, "web.", "'web'"),
        (names.service_name, "1web", "'web'"),
    ],
)
def test_the_nearest_good_name_is_shown(rule: Rule, text: str, near: str) -> None:
    assert rule(text).endswith(f"such as {near}")


@pytest.mark.parametrize(
    "text",
    [
        "nginx",
        "library/python:3.6-alpine",
        "myregistry.local:5000/testing/test-image",
        "localhost:5000/milpa/web:latest",
        "ACCOUNT.dkr.ecr.us-east-1.amazonaws.com/imagename:tag",
        "[::1]:5000/a/b",
        "a__b/c--d.e:1",
        "nginx@sha256:" + "0a" * 32,
        "nginx:1@sha256:" + "0a" * 32,
    ],
)
def test_good_images(text: str) -> None:
    assert names.image(text) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must not be empty"),
        ("Nginx", "must be lower case"),
        ("docker://nginx", "write 'nginx'"),
        ("nginx:", "is no image reference"),
        ("nginx latest", "is no image reference"),
        ("a//b", "is no image reference"),
        ("-a", "is no image reference"),
        ("nginx@sha256:1", "is no image reference"),
        ("a" * 513, "at most 512"),
    ],
)
def test_bad_images(text: str, reason: str) -> None:
    assert reason in names.image(text)


def test_hostile_images_are_refused_at_once() -> None:
    assert names.image("a-" * 250 + "!")
    assert names.image("a/" * 250 + "!")
