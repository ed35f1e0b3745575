"""How a command ends: exit codes, and errors as people read them.

Owns the exit codes and the one form of an error: what, why, fix. Never prints and never exits. Pure. Called by
`__main__` and by the commands that report an error and go on.
"""

from __future__ import annotations

import traceback
from enum import IntEnum

from mesh.cli.config_file import InvalidFile
from mesh.cli.follow import ApplicationsFailed
from mesh.errors import Conflict, DeadlineExceeded, InvalidConfig, MeshError, NotFound, Unreachable

_RED, _PLAIN = "\x1b[1;31m", "\x1b[0m"
_FIELD_CHARS_MAX = 150
_DETAILS_MAX = 10
"""Lines of a traceback that are shown, the last ones, unless all are asked for."""
_LINE_CHARS_MAX = 500


class ExitCode(IntEnum):
    """What meshctl returns to the shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """Wrong use of the command line, or an invalid config; not: one that is valid but not safe."""
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    TIMED_OUT = 6
    ROLLED_BACK = 7
    """A revision failed, and what served before it serves on."""
    INTERRUPTED = 130


_CODES: tuple[tuple[type[MeshError], ExitCode], ...] = (
    (InvalidConfig, ExitCode.USAGE),
    (NotFound, ExitCode.NOT_FOUND),
    (Conflict, ExitCode.CONFLICT),
    (Unreachable, ExitCode.UNREACHABLE),
    (DeadlineExceeded, ExitCode.TIMED_OUT),
)


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that stands for `error`."""
    if isinstance(error, ApplicationsFailed) and error.rolled_back:
        return ExitCode.ROLLED_BACK
    if isinstance(error, InvalidConfig) and all(problem.refused for problem in error.problems):
        return ExitCode.FAILED
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def rendered(error: BaseException, *, colour: bool = False, debug: bool = False) -> str:
    """Return the lines that tell a person of `error`: what happened, why, how to mend it.

    The first line of a message is what happened, further lines are why. With `debug` the traceback comes first; where
    user code failed it is that of the user's code.
    """
    if isinstance(error, ApplicationsFailed):
        return "\n".join(_failed(error, colour, debug))
    lines = "".join(traceback.format_exception(error)).rstrip().split("\n") if debug else []
    if isinstance(error, InvalidFile):
        for fault in error.faults:
            problem = fault.problem
            at = f"{error.path}:{fault.place.line}:{fault.place.column}"
            lines += _lines(_joined(at, _cut(problem.field), problem.message), problem.hint, colour)
    elif isinstance(error, InvalidConfig):
        for problem in error.problems:
            lines += _lines(_joined(_cut(problem.field), problem.message), problem.hint, colour)
    elif isinstance(error, MeshError):
        lines += _lines(error.message, error.hint, colour)
    else:
        what = f"unexpected {type(error).__name__}: {error}"
        lines += _lines(what, "" if debug else "this is a fault of mesh; meshctl --debug shows its traceback", colour)
    return "\n".join(lines)


def _failed(error: ApplicationsFailed, colour: bool, debug: bool) -> list[str]:
    lines = []
    in_order = [*error.places, *sorted(error.failures.keys() - error.places.keys())]
    for name in in_order:
        failure = error.failures[name]
        what = _joined(error.places.get(name) or f"application {name!r} failed", failure.message)
        hint = failure.hint or "see meshctl status"
        details = [_printable(line) for line in failure.details.rstrip().splitlines()]
        if len(details) > _DETAILS_MAX and not debug:
            details = details[-_DETAILS_MAX:]
            hint += " (meshctl --debug shows the whole traceback)"
        told = [error.ends[name]] if name in error.ends else []
        lines += _lines("\n".join([what, *told, *details]), hint, colour)
    return lines


def _printable(line: str) -> str:
    """Return a line of what user code printed without what a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)[:_LINE_CHARS_MAX]


def _cut(field: str) -> str:
    return field if len(field) <= _FIELD_CHARS_MAX else field[: _FIELD_CHARS_MAX - 1] + "…"


def _joined(*parts: str) -> str:
    return ": ".join(part for part in parts if part)


def _lines(message: str, hint: str, colour: bool) -> list[str]:
    what, *why = message.rstrip().split("\n")
    lines = [f"{_RED}error:{_PLAIN} {what}" if colour else f"error: {what}"]
    lines += [f"  why: {line}" if i == 0 else f"       {line}" for i, line in enumerate(why)]
    return [*lines, f"  fix: {hint}"] if hint else lines
