"""The command line as a whole: help, usage errors, exit codes, what a start costs. No server runs here."""

import subprocess
import sys

import pytest

from cli import milpactl as module
from cli.reporting import FAILED, INTERRUPTED, USAGE, CommandFailed, UsageError, report
from tests.cli.running import COMMAND, environment, milpactl, milpactl_here

COMMANDS = [
    *("create", "update", "apply", "delete", "get", "describe", "explain"),
    *("logs", "wait", "dump", "version", "completion"),
]
NOWHERE = ("--disable-tls", "--endpoints", "127.0.0.1:1")
HEAVY = {"ray", "boto3", "numpy", "yaml", "rich", "cryptography", "aetcd", "milpa_ray.api", "milpa_ray.store"}


def test_help_lists_all_commands() -> None:
    ran = milpactl("--help")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.partition("Commands:\n")[2].splitlines()] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    ran = milpactl_here(command, "-h")
    assert ran.code == 0
    assert f"Usage: milpactl {command} " in ran.out
    for flag in ("--endpoints", "--cert-dir", "--disable-tls"):
        assert flag in ran.out
    examples = ran.out.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all("milpactl " in line for line in examples)


def test_a_usage_error_of_the_real_process() -> None:
    ran = milpactl("get", "pds")
    assert (ran.code, ran.out, ran.err) == (USAGE, "", 'Error: unknown kind "pds"; did you mean "pods"?\n')


def test_without_arguments_it_helps() -> None:
    ran = milpactl()
    assert "Commands:" in ran.out + ran.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("get", "pods", "--frob"), "--frob"),
        (("get", "pods", "-o", "xml"), "xml"),
        (("get",), "say which kind"),
        (("get", "pds"), 'did you mean "pods"?'),
        (("get", "pods", "x", "-l", "a=b"), "either names or a selector"),
        (("delete", "pods"), "or all of them (--all)"),
        (("delete", "pods", "x", "--all"), "either names"),
        (("delete", "pods", "-f", "x.yml"), "either manifests"),
        (("delete", "pod", "x", "--timeout", "soon"), "no duration"),
        (("wait", "pod", "x", "--for", "phase=Runing"), 'no phase "Runing"'),
        (("wait", "pod", "x", "--for", "soon"), "no condition"),
        (("wait", "pod", "x", "--for=condition=Ready"), "write phase=Running, deleted, or FIELD=VALUE"),
        (("wait", "pod", "x", "--for=condition=Ready"), 'pods have no field "condition"'),
        (("wait", "pod/x", "svc/y", "--for=phase=Running"), 'services have no field "phase"'),
        (("get", "pods", "-l", "app in ("), "Error: -l: label selector 'app in ('"),
        (("describe", "pods", "-l", "=x"), "Error: -l: label selector"),
        (("delete", "pods", "-l", "a=b c"), "Error: -l: label selector"),
        (("wait", "pods", "-l", "a=b=c", "--for=deleted"), "Error: -l: label selector"),
        (("get", "pods", "--endpoints", "http://h:1"), "--endpoints: 'http://h:1' is no endpoint"),
        (("get", "pods", "--sort-by", "nonsense"), '--sort-by: pods have no field "nonsense"'),
        (("get", "pods", "--sort-by", "{}"), "--sort-by: pods have no field"),
        (("wait", "pods", "--for", "deleted"), "say which objects"),
        (("wait", "pod", "x"), "--for"),
        (("logs",), "POD|NODE"),
        (("logs", "svc/x"), "only pods and nodes have logs"),
        (("create",), "--filename"),
        (("completion", "tcsh"), "tcsh"),
        (("explain",), "say what to explain"),
        (("explain", "pods"), "say which of the pods"),
        (("explain", "svc/x"), "services have no instance"),
        (("explain", "pod", "x", "--cpu", "1"), "a pod and --cpu exclude each other"),
        (("explain", "--cpu", "2x", "--region", "us-east-1"), "--cpu: '2x' is no quantity"),
        (("explain", "--gpu", "1.5", "--region", "us-east-1"), "--gpu: '1.5' must be a whole number"),
        (("explain", "--instance-type", "a b", "--region", "us-east-1"), "--instance-type: 'a b' is no instance type"),
        (("explain", "--cpu", "1", "--region", "mars-1"), "'mars-1' is unknown; known are af-south-1"),
        (("explain", "--cpu", "1", "--spot", "maybe"), "maybe"),
    ],
)
def test_usage_errors(args: tuple[str, ...], words: str) -> None:
    ran = milpactl_here(*args)
    assert (ran.code, ran.out) == (USAGE, "")
    assert "Error: " in ran.err
    assert words in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "args",
    [("get", "pods"), ("version",), ("logs", "x"), ("delete", "pod", "x")],
)
def test_no_server_is_an_error_with_a_remedy(args: tuple[str, ...]) -> None:
    ran = milpactl_here(*args, *NOWHERE)
    assert ran.code == FAILED
    assert "Error: no API server answers (127.0.0.1:1:" in ran.err
    assert "--endpoints" in ran.err
    assert "Traceback" not in ran.err


def test_missing_certificates_name_the_folder(tmp_path: object) -> None:
    ran = milpactl("get", "pods", "--cert-dir", str(tmp_path))
    assert ran.code == FAILED
    assert f"Error: loading TLS configuration from {tmp_path}" in ran.err


def test_flags_stand_before_or_after_the_command_or_in_the_environment() -> None:
    before = milpactl_here(
        "--disable-tls", "--endpoints", "127.0.0.1:2", "get", "pods", env={"MILPA_ENDPOINTS": "127.0.0.1:3"}
    )
    assert "127.0.0.1:2:" in before.err
    after = milpactl_here("--endpoints", "127.0.0.1:2", "get", "pods", *NOWHERE)
    assert "(127.0.0.1:1:" in after.err
    assert "127.0.0.1:2" not in after.err
    several = milpactl_here("get", "pods", "--disable-tls", env={"MILPA_ENDPOINTS": "127.0.0.1:3,127.0.0.1:4"})
    assert "127.0.0.1:3:" in several.err
    assert "127.0.0.1:4:" in several.err


def test_version_of_the_client_alone() -> None:
    from milpa_ray import __version__

    assert milpactl("version", "--client").out == f"milpactl version: {__version__}\n"


@pytest.mark.parametrize("args", [("version", *NOWHERE), ("get", "pods", *NOWHERE), ("--help",)])
def test_a_start_imports_nothing_heavy(args: tuple[str, ...]) -> None:
    done = subprocess.run(
        [COMMAND[0], "-X", "importtime", *COMMAND[1:], *args],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "cli" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    ran = milpactl_here("completion", shell)
    assert ran.code == 0
    assert "_MILPACTL_COMPLETE=complete_" + shell in ran.out


def _completed(words: str) -> list[str]:
    typed = words.split(" ")
    env = {"_MILPACTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    return milpactl_here(env=env).out.split()


def test_the_shell_is_offered_commands_and_kinds() -> None:
    assert _completed("milpactl de") == ["delete", "describe"]
    assert _completed("milpactl get po") == ["pods"]
    assert _completed("milpactl describe --no") == ["--no-events"]


def test_without_a_server_no_names_are_offered_and_nothing_is_printed() -> None:
    assert _completed("milpactl --endpoints 127.0.0.1:1 --disable-tls get pods ") == []


def test_reports(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILPA_DEBUG", raising=False)
    assert report(CommandFailed("one", "two")) == FAILED
    assert capsys.readouterr().err == "Error: one\nError: two\n"
    assert report(UsageError("odd")) == USAGE
    assert report(KeyboardInterrupt()) == INTERRUPTED
    capsys.readouterr()
    assert report(FileNotFoundError(2, "No such file or directory", "x.yml")) == FAILED
    assert capsys.readouterr().err == "Error: No such file or directory: x.yml\n"
    assert report(RuntimeError("boom\nbang")) == FAILED
    err = capsys.readouterr().err
    assert err.startswith("Error: unexpected RuntimeError: boom bang")
    assert "Traceback" not in err


def test_a_traceback_is_there_for_who_asks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_DEBUG", "1")
    try:
        raise RuntimeError("boom")
    except RuntimeError as problem:
        report(problem)
    assert "Traceback" in capsys.readouterr().err


def test_what_goes_wrong_outside_of_commands_is_reported_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(module, "app", broken)
    monkeypatch.setattr(sys, "argv", ["milpactl"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == FAILED
    assert "Error: unexpected RuntimeError: boom" in capsys.readouterr().err
