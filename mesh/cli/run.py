"""`run` and `start`: a whole mesh in one process tree.

Owns the words of the two commands. Loads nothing heavy before one of them is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.flags import ImportFlags, LocalFlags, ProcessFlags, StoreFlags, TrustFlags
from mesh.settings import LOOPBACK, ControlPlaneSettings, environment

STORE_FILE = "mesh.db"


def run(
    target: Annotated[str, typer.Argument(help="Import path (module:attribute) or config file.", metavar="TARGET")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments for a builder function.", metavar="KEY=VALUE")
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Deploy again whenever the code changes.")] = False,
    *,
    imported: ImportFlags,
    local: LocalFlags,
    process: ProcessFlags,
) -> None:
    """Run an application or a config file here, until Ctrl-C.

    Control plane, worker and gateway live in this process, replicas are its children, and nothing is kept.

    \b
    Examples:
      meshctl run slow:app
      meshctl run slow:app --port 0 --reload
      meshctl run mesh.yaml
    """
    from mesh.worker.ahead import Ahead

    worker = local.worker()
    with Ahead() as ahead:
        if not reload:  # code that is looked after runs in an environment of its own
            ahead.launch(worker.host)
        from mesh.cli.local import Local, serve
        from mesh.cli.target import Asked

        asked = Asked(target, tuple(arguments or ()), imported.name, imported.route_prefix, imported.working_dir)
        # Whoever tries code waits for it: a new version is relied on as soon as it is ready.
        store = ControlPlaneSettings(min_ready_s=0.0)
        raise typer.Exit(serve(Local(store, local, process, worker, ahead, asked, reload)))


def start(
    config: Annotated[
        Path | None, typer.Option(help="Config file to deploy at the start; it may set host and ports too.")
    ] = None,
    control_host: Annotated[str, typer.Option(help="Address of the control plane.")] = LOOPBACK,
    *,
    store: StoreFlags,
    local: LocalFlags,
    process: ProcessFlags,
    trust: TrustFlags,
) -> None:
    """Run a whole mesh here, for long: what is deployed is kept on disk.

    \b
    Examples:
      meshctl start --data-dir /var/lib/mesh
      meshctl start --host 0.0.0.0 --config mesh.yaml
      meshctl start --store etcd://10.0.0.5:2379/mesh
    """
    from mesh.worker.ahead import Ahead

    if store.store and store.data_dir is not None:
        raise typer.BadParameter("cannot be used together with --store", param_hint="--data-dir")
    worker = local.worker()
    with Ahead() as ahead:
        if config is not None:
            ahead.launch(worker.host)
        from mesh.cli.local import WORKER_ID, Local, serve
        from mesh.cli.target import Asked

        directory = store.data_dir or state_directory(environment())
        url = store.store or embedded_store(directory)
        settings = store.applied(trust.applied(ControlPlaneSettings(host=control_host, store=url)))
        asked = Asked(str(config)) if config is not None else None
        worker = replace(worker, log_dir=log_directory(directory, WORKER_ID))
        raise typer.Exit(serve(Local(settings, local, process, worker, ahead, asked)))


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return where a user's programs keep their state (XDG base directories)."""
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / "mesh"
    return Path.home() / ".local" / "state" / "mesh"


def log_directory(data_dir: Path | None, worker_id: str) -> str:
    """Return where a worker keeps the logs of its replicas; without a `data_dir` in none that outlives it."""
    return str(data_dir.absolute() / (worker_id or "worker") / "logs") if data_dir is not None else ""


def embedded_store(directory: Path) -> str:
    """Return the URL of the embedded store in `directory`, which is made if it is not there. Raises InvalidConfig."""
    from mesh.errors import InvalidConfig, Problem

    try:
        # Goal state and packages are nobody else's to read.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = Problem("--data-dir", f"cannot make {directory}: {error.strerror}", "name one that you may write")
        raise InvalidConfig((problem,)) from error
    return f"sqlite:///{directory.resolve() / STORE_FILE}"
