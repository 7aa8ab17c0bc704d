"""How ``milpactl`` reports: messages go to stderr as ``Error: ...``, and each outcome has one exit code.

0: done. 1: it failed. 2: the command line is wrong. 130: interrupted by Ctrl-C. 141: the reader of our output went
away. A traceback is shown only with ``MILPA_DEBUG=1``.
"""

import os
import sys
import traceback

from milpa_ray.errors import MilpaError

FAILED = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
DEBUG_VARIABLE = "MILPA_DEBUG"


class UsageError(MilpaError):
    """The command line asks for something that makes no sense. Exit code 2."""


class CommandFailed(MilpaError):
    """The command has failed, for the reason or reasons given. Exit code 1."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


def note(message: str) -> None:
    """One line for the user that is no result: to stderr."""
    print(message, file=sys.stderr, flush=True)


def error(message: str) -> None:
    """One ``Error: ...`` line on stderr."""
    note(f"Error: {message.removeprefix('Error ')}")


def report(problem: BaseException) -> int:
    """Tells the user of ``problem`` and returns the exit code that goes with it."""
    if isinstance(problem, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(problem, BrokenPipeError):
        _drop_stdout()
        return BROKEN_PIPE
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(problem)
    if isinstance(problem, MilpaError):
        for reason in problem.reasons if isinstance(problem, CommandFailed) else (str(problem),):
            error(reason)
        return USAGE if isinstance(problem, UsageError) else FAILED
    if isinstance(problem, OSError):
        where = f": {problem.filename}" if problem.filename else ""
        error(f"{problem.strerror or problem}{where}")
        return FAILED
    detail = " ".join(str(problem).split()) or "no details"
    error(f"unexpected {type(problem).__name__}: {detail} (set {DEBUG_VARIABLE}=1 to see where)")
    return FAILED


def _drop_stdout() -> None:
    """What is still buffered goes nowhere; else the interpreter complains about the pipe when it exits."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):
        return
    finally:
        os.close(devnull)
