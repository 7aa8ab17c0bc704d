"""The flags of ``explain`` that are wrong, or that count for nothing: what is said of them."""

import pytest

from tests.cli.explaining import cells, explained, run

HERE = ("--region", "us-east-1")


def test_what_an_exact_type_makes_void_is_said() -> None:
    asked = ("--instance-type", "c5.large", "--gpu", "4", "--arch", "ARM64", "--dedicated")
    ran = run(*asked, *HERE)
    assert cells(ran, "Ignored:") == ["since instanceType is exact: gpu, arch, dedicatedCPU"]
    assert explained(*asked, *HERE)["ignored"] == ["gpu", "arch", "dedicatedCPU"]
    assert explained("--instance-type", "c5*", "--cpu", "2", *HERE)["ignored"] == []


@pytest.mark.parametrize(
    "flag", ["--cpu", "--memory", "--gpu", "--gpu-name", "--instance-type", "--zone", "--volume-size"]
)
def test_an_empty_value_is_wrong_use(flag: str) -> None:
    ran = run("--sustained", "true", flag, "", *HERE)
    assert (ran.code, ran.out, ran.err) == (2, "", f"Error: {flag}: has no value; give one, or leave the flag out\n")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--zone", "us-east-1z"), "set --zone to one of us-east-1a, "),
        (("--instance-type", "c5.larg"), "name another in --instance-type; did you mean 'c5.large'?"),
        (("--instance-type", "zz*"), "mend --instance-type"),
    ],
)
def test_remedies_for_flags_name_flags(asked: tuple[str, str], words: str) -> None:
    ran = run(*asked, *HERE)
    assert ran.code == 1
    assert words in ran.err
    assert words in ran.out
    assert words in explained(*asked, *HERE, code=1)["refusal"]["message"]


@pytest.mark.parametrize("flag", ["--arch", "--spot", "--sustained", "--output"])
def test_a_wrong_choice_is_told_in_plain_words(flag: str) -> None:
    ran = run("--cpu", "1", flag, "foo", *HERE)
    assert ran.code == 2
    assert ": 'foo' is not one of " in ran.err
    assert "Value error" not in ran.err


def test_no_volume_is_that_large() -> None:
    ran = run("--volume-size", "1Ei", *HERE)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: --volume-size: '1Ei' is no size of a root volume; write 1Gi to 65536Gi")
