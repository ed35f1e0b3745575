"""Errors of a build or a start as `Failure`s: what the people who deploy are told of them.

Owns the form: one line, the field of the config, what mends it, and apart from that the details. Never does I/O.
Called by the build and replica processes and by those who start them.
"""

from __future__ import annotations

import re

from mesh.errors import EnvironmentFailed, InvalidConfig, MeshError, Problem, UserCodeError
from mesh.model import Failure
from mesh.reasons import Reason

_FETCHED = re.compile(r"/[^\s\"']*/(?:archive|git)-[0-9a-f]{64}/tree/")
_TAIL_LINES = 20
_FATAL_SIGNALS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
_FATAL = "Fatal Python error: "
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_OWN = "/mesh/worker/"
MEND = "mend the code, then try again"
IN_LOGS = "meshctl logs NAME has what it printed, also when the replica is gone"
IN_WORKER_LOG = "the worker's log has what it printed"
"""Of a build: `meshctl logs` has lines of replicas only."""
_MESSAGE_CHARS_MAX = 500
DETAILS_CHARS_MAX = 16_000
"""Of a build. Stored with the application's goal state, within the store's limit for a value."""


def failure_of(error: MeshError) -> Failure:
    """Return what to tell of an error."""
    if isinstance(error, UserCodeError):
        return Failure(one_line(error.message), error.field, error.hint or MEND, error.traceback)
    if isinstance(error, EnvironmentFailed):
        return Failure(one_line(error.message), error.field, error.hint, error.details, Reason.ENVIRONMENT_FAILED)
    if isinstance(error, InvalidConfig):
        problem = error.problems[0]
        return Failure(one_line(problem.message), problem.field or "import_path", problem.hint)
    return Failure(one_line(error.message), hint=error.hint)


def process_failure(ending: str, tail: str, hint: str = IN_LOGS) -> Failure:
    """Return what to tell of a process that ended, as `ending` says, without saying why; `tail` is what it printed.

    `hint` says where all that it printed is.
    """
    if any(signal in ending for signal in _FATAL_SIGNALS) and (fatal := _fatal(without_cache(tail))):
        message, frames = fatal
        return Failure(one_line(f"{ending}: {message}"), "import_path", hint, frames)
    tail = "\n".join(tail.rstrip().split("\n")[-_TAIL_LINES:])
    last = tail.rpartition("\n")[2].strip()
    message = f"{ending}; it printed last: {last}" if last else ending
    return Failure(one_line(message), "import_path", hint, tail)


def _fatal(tail: str) -> tuple[str, str] | None:
    """Return what native code died of and where, and the frames of Python above it, if faulthandler said so last."""
    _, found, said = tail.rpartition(_FATAL)
    if not found:
        return None
    what, _, rest = said.partition("\n")
    frames = [frame for frame in _FRAME.findall(rest) if _OWN not in frame[0]]
    # Most recent first; what the standard library and packages do in it is not where to look.
    file, line, _ = next((frame for frame in frames if "/lib/python" not in frame[0]), ("", "", ""))
    where = f" ({file.rpartition('/')[2]}:{line})" if file else ""
    shown = [f'  File "{path}", line {number}, in {name}' for path, number, name in reversed(frames)]
    text = "\n".join(("Traceback (most recent call last):", *shown, f"{_FATAL}{what}"))
    return f"{what}{where}", text


def directory_problem(field: str, path: str, why: str) -> Problem:
    """Return what is wrong with a directory of runtime_env on this host."""
    return Problem(field, f"directory {path!r} cannot be used on the worker: {why}", "it has to be on every worker")


def without_cache(text: str) -> str:
    """Return a text in which files of fetched code are named as in the archive or repository that they come from."""
    return _FETCHED.sub("", text)


def one_line(text: str) -> str:
    """Return a text as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_CHARS_MAX else line[: _MESSAGE_CHARS_MAX - 1] + "…"


def cut_front(text: str, chars_max: int) -> str:
    """Return the end of a text, where an exception stands, of bounded length."""
    return text if len(text) <= chars_max else "…" + text[1 - chars_max :]
