"""This process's stdout and stderr.

Owns what goes where: data to stdout, progress and errors to stderr, colour only for people who want it. Called by
the commands and `__main__`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

import typer

from mesh.cli.fail import rendered
from mesh.cli.flags import Output
from mesh.cli.output import Style
from mesh.clock import SYSTEM
from mesh.settings import environment


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether to colour what is written to `stream` (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def style(form: Output, *, one_line: bool = False) -> Style:
    """Return the style for stdout now."""
    return Style(form.value, SYSTEM.wall(), wants_colour(sys.stdout, environment()), one_line)


def write(text: str) -> None:
    """Write data to stdout."""
    typer.echo(text, nl=False)


def say(line: str) -> None:
    """Write a line of progress to stderr."""
    typer.echo(line, err=True)


def warn_of(stale: str) -> None:
    """Say that an answer is old, if it is."""
    if stale:
        say(f"warning: {stale}; this is what a control plane last read in the store")


def complain(error: BaseException, *, debug: bool = False) -> None:
    """Write an error to stderr."""
    say(rendered(error, colour=wants_colour(sys.stderr, environment()), debug=debug))
