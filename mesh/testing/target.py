"""Where a bound application can be imported from: replicas are processes of their own, and import it anew.

Owns the search for its name. Called by `serving`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from mesh.errors import NotFound
from mesh.serving.deployment import Application


def import_path(application: Application) -> tuple[str, Path]:
    """Return the import path of a bound application, and the directory to import it from.

    Raises NotFound if no imported module has it under a name.
    """
    # A script that runs would run again, were it imported.
    modules = {name: module for name, module in sys.modules.items() if name != "__main__"}
    first = modules.pop(application.deployment.target.__module__, None)
    for module in (first, *modules.values()):
        for name in _names(module, application):
            return _path(module, name)
    text = f"the application of {application.deployment.name!r} has no name that replicas could import it by"
    raise NotFound(text, hint="bind it at the top of a module: app = MyDeployment.bind()")


def _names(module: object, application: Application) -> Iterable[str]:
    if not isinstance(module, ModuleType) or getattr(module, "__file__", None) is None:
        return
    for name, value in list(vars(module).items()):
        if value is application:
            yield name


def _path(module: ModuleType | None, name: str) -> tuple[str, Path]:
    assert module is not None and module.__file__ is not None
    file = Path(module.__file__).resolve()
    own = file.parent if file.name == "__init__.py" else file.with_suffix("")
    parts = module.__name__.split(".")
    if own.parts[-len(parts) :] == tuple(parts):
        return f"{module.__name__}:{name}", own.parents[len(parts) - 1]
    # Imported by its file: some test runners give modules names of their own.
    return f"{own.name}:{name}", own.parent
