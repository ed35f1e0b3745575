"""The pytest fixture `mesh_app`. In the topmost conftest.py: `pytest_plugins = ["mesh.testing.plugin"]`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.serving.deployment import Application
from mesh.testing.serving import Served, serve
from mesh.testing.target import import_path


@pytest.fixture(scope="module")
def mesh_app() -> Iterator[Callable[..., Served]]:
    """Serves applications for the tests of a module: `mesh_app("shop:app")`, with the arguments of `serve`.

    The same call again gives what is served already. All ends with the module's last test.
    """
    served: dict[str, Served] = {}
    with contextlib.ExitStack() as stack:

        def once(target: str | Path | Application, **options: Any) -> Served:
            if isinstance(target, Application):
                target, found = import_path(target)
                options = {"working_dir": found, **options}
            directory = Path(options.get("working_dir") or ".").resolve()
            key = f"{target} {sorted((options | {'working_dir': directory}).items())}"
            if key not in served:
                served[key] = stack.enter_context(serve(target, **options))
            return served[key]

        yield once
