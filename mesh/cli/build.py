"""`build`: from bound applications to a config file.

Owns the words of the command, and the processes that import user code: those of a worker's builds, so that what is told
of an error, and what an error may do, is the same as in a deploy. Loads nothing heavy before it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.flags import ImportFlags

if TYPE_CHECKING:
    from mesh.cli.config_writer import Built
    from mesh.model import ApplicationConfig


def build(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Import paths (module:attribute); after a single one, arguments for a builder function.",
            metavar="IMPORT_PATH… [KEY=VALUE…]",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="stdout", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that importing them may take.", metavar="SECONDS")
    ] = 60.0,
    *,
    imported: ImportFlags,
) -> None:
    """Write a config file of bound applications, with every option that is in force.

    \b
    Examples:
      meshctl build slow:app -o mesh.yaml
      meshctl build shop:app blog:app -o mesh.yaml
      meshctl build shop:make size=large --name shop --route-prefix /shop
    """
    import asyncio

    from mesh.cli import config_file
    from mesh.cli.config_writer import written
    from mesh.cli.interrupts import raise_it
    from mesh.cli.output import counted
    from mesh.cli.terminal import say, write

    if output is not None:
        _check(output, force)
    configs = _configs(targets, imported)
    _show_what_is_printed()
    raise_it()
    built = asyncio.run(_built(configs, timeout))
    directory = Path.cwd() if output is None else output.resolve().parent
    text = written(built, directory=str(directory))
    config_file.parse(text, path="built", surroundings=config_file.Surroundings(str(directory)))
    if output is None:
        write(text)
        return
    _write(output, text, force)
    say(f"{output}: written, {counted(len(built), 'application')}")


def _show_what_is_printed() -> None:
    """What user code prints goes to stderr; why a build failed is told in one place, at the end."""
    import logging

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("mesh.worker").setLevel(logging.CRITICAL)


def _configs(targets: Sequence[str], imported: ImportFlags) -> tuple[ApplicationConfig, ...]:
    """Return what the words of the command ask for. Raises typer.BadParameter, InvalidConfig."""
    from mesh.cli import target
    from mesh.cli.target import Asked

    paths = [word for word in targets if "=" not in word]
    arguments = tuple(word for word in targets if "=" in word)
    if not paths:
        raise typer.BadParameter("name at least one", param_hint="IMPORT_PATH")
    several = len(paths) > 1
    given = {"KEY=VALUE": arguments, "--name": imported.name, "--route-prefix": imported.route_prefix}
    for word, value in given.items():
        if several and value not in (None, ()):
            raise typer.BadParameter("takes a single import path", param_hint=word)
    return tuple(
        target.from_import_path(
            Asked(
                path,
                arguments,
                f"app{i}" if several else imported.name,
                f"/app{i}" if several else imported.route_prefix,
                imported.working_dir,
            )
        ).config.applications[0]
        for i, path in enumerate(paths, start=1)
    )


async def _built(configs: Sequence[ApplicationConfig], timeout_s: float) -> tuple[Built, ...]:
    """Import each application in a process of its own. Raises ApplicationsFailed."""
    import asyncio

    from mesh import wire
    from mesh.cli.config_writer import Built
    from mesh.cli.follow import ApplicationsFailed
    from mesh.clock import SYSTEM
    from mesh.credentials import Credentials
    from mesh.model import BuiltDeployment, Failure
    from mesh.security import NO_SECURITY
    from mesh.settings import WorkerSettings
    from mesh.v1 import deployment_pb2, worker_service_pb2
    from mesh.worker.builds import Builds
    from mesh.worker.environments.assembly import environments
    from mesh.worker.watchdog import Watchdog

    watchdog = Watchdog()
    watchdog.start()
    prepared = environments(WorkerSettings(), Credentials(NO_SECURITY), watchdog, SYSTEM)
    try:
        builds = Builds(prepared, watchdog, SYSTEM)
        requests = [
            worker_service_pb2.Build(
                build_id=config.name,
                config=wire.to_proto(config, deployment_pb2.ApplicationConfig),
                timeout_s=timeout_s,
            )
            for config in configs
        ]
        results = await asyncio.gather(*map(builds.build, requests))
    finally:
        await prepared.close()
        watchdog.stop()
    failures = {
        config.name: wire.from_proto(result.failure, Failure)
        for config, result in zip(configs, results, strict=True)
        if result.HasField("failure")
    }
    if failures:
        error = ApplicationsFailed(failures)
        error.places = {config.name: config.import_path for config in configs if config.name in failures}
        raise error
    return tuple(
        Built(config, tuple(wire.from_proto(each, BuiltDeployment).config for each in result.deployments))
        for config, result in zip(configs, results, strict=True)
    )


def _check(output: Path, force: bool) -> None:
    """Raise Conflict if the file is there and is not to be written over."""
    from mesh.errors import Conflict

    if not force and output.exists():
        raise Conflict(f"{output} is there already", hint="name another file, or write over it with --force")


def _write(output: Path, text: str, force: bool) -> None:
    """Write the file. Raises Conflict, InvalidConfig."""
    from mesh.errors import InvalidConfig, Problem

    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _check(output, force)
    except OSError as error:
        problem = Problem("--output", f"cannot write {output}: {error.strerror}", "name a file that you may write")
        raise InvalidConfig((problem,)) from error
