"""The commands of meshctl in their groups, global flags, and what becomes of errors.

Owns assembly only. Loads typer and flags; each command loads what it needs when it is called, so that help is quick.
Called by `__main__`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core

from mesh import __version__
from mesh.cli import applications, build, call, diff, files, logs, proto, revisions, roles, run, watching, workers
from mesh.cli.flags import expanded
from mesh.errors import MeshError
from mesh.settings import prepare_grpc

PROGRAM = "meshctl"
GROUPS = {
    "Run everything here": (run.run, run.start),
    "Deploy and look": (
        applications.deploy,
        watching.status,
        watching.describe,
        watching.events,
        applications.config,
        applications.delete,
        logs.logs,
        applications.workers,
        workers.drain,
        files.validate,
        diff.diff,
        build.build,
        applications.shutdown,
    ),
    "Change what runs": (
        revisions.history,
        revisions.rollback,
        revisions.scale,
        revisions.restart,
        revisions.pause,
        revisions.resume,
    ),
    "Protobuf and gRPC": (call.call,),
    "Run one role": (roles.controlplane, roles.worker, roles.gateway),
}
NOUNS = {"Protobuf and gRPC": {"proto": ("Work with .proto files.", (proto.compile,))}}
"""Commands of two words, by group and first word, which has a line of help."""
EXAMPLES = """\
  meshctl run slow:app              run one application, until Ctrl-C
  meshctl deploy mesh.yaml          change what a mesh runs
  meshctl status                    see how it is doing"""
EXIT_CODES = """\
  0 ok   1 failed   2 usage or invalid config   3 not found   4 conflict   5 unreachable   6 timed out
  7 failed and rolled back   130 interrupted"""


@dataclass
class Invocation:
    """What the global flags said."""

    debug: bool = False


class Commands(typer.core.TyperGroup):
    """Writes the overview itself, in plain text: that takes a fraction of the time."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the groups with a line for each command."""
        lines = [f"Usage: {PROGRAM} [--debug] COMMAND …", "", "Serve Python behind REST and gRPC, with exact limits."]
        lines += ["", "Examples:", EXAMPLES]
        for title, commands in GROUPS.items():
            lines += ["", f"{title}:"]
            lines += [_line(command, command.__name__) for command in commands]
            for noun, (_, inner) in NOUNS.get(title, {}).items():
                lines += [_line(command, f"{noun} {command.__name__}") for command in inner]
        lines += ["", "Options:", "  --debug       Show tracebacks.", "  --version     Show the version."]
        lines += ["  --install-completion, --show-completion   Completion for the shell."]
        lines += ["", "Exit codes:", EXIT_CODES, "", f"{PROGRAM} COMMAND --help tells more."]
        formatter.write("\n".join(lines) + "\n")


def _line(command: Callable[..., Any], words: str) -> str:
    about = (command.__doc__ or "").partition("\n")[0]
    return f"  {words:<14}{about}"


def assembled(word: str = "") -> typer.Typer:
    """Return meshctl with the command that `word` names, or with all if it names none.

    To take each apart for its flags takes longer than most of them run.
    """
    app = typer.Typer(cls=Commands, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_global_flags)
    named = word in {command.__name__ for commands in GROUPS.values() for command in commands}
    named = named or any(word in nouns for nouns in NOUNS.values())
    for title, commands in GROUPS.items():
        for command in commands:
            if not named or command.__name__ == word:
                app.command(rich_help_panel=title)(expanded(command))
        for noun, (about, inner) in NOUNS.get(title, {}).items():
            if not named or noun == word:
                group = typer.Typer(rich_markup_mode="rich", help=about)
                for second in inner:
                    group.command()(expanded(second))
                app.add_typer(group, name=noun, rich_help_panel=title)
    return app


def main() -> int:
    """Run meshctl with this process's arguments and return its exit code."""
    prepare_grpc()
    invocation = Invocation()
    app = assembled(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
    try:
        return int(app(prog_name=PROGRAM, obj=invocation, standalone_mode=False) or 0)
    except typer.Abort:
        return 130
    except Exception as error:
        return _failed(error, invocation.debug)


def _failed(error: Exception, debug: bool) -> int:
    """Tell the user and return the exit code."""
    if not isinstance(error, MeshError) and hasattr(error, "format_message"):
        return _misused(error)
    from mesh.cli.fail import exit_code
    from mesh.cli.terminal import complain

    complain(error, debug=debug)
    return exit_code(error)


def _misused(error: Any) -> int:
    """Wrong use of the command line, as typer found it."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    if message := error.format_message():
        typer.echo(f"error: {message}\n  fix: {path} --help", err=True)
    return int(error.exit_code)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _global_flags(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    context.obj.debug = debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
