"""Loads a user's application: from an import path to a bound `Application`.

Owns the import path, what an import path may name, and how a failure in user code is told: a short message with
the user's file and line, and a traceback without frames of mesh. Never imports grpc, for it runs at each start.
Called by the build and the replica process, in their main threads.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import Any

from mesh import model
from mesh.errors import InvalidConfig, MeshError, UserCodeError
from mesh.serving.deployment import Application, Deployment
from mesh.serving.options import shown
from mesh.worker.failures import DETAILS_CHARS_MAX, MEND, cut_front, directory_problem, one_line, without_cache

_OWN_FILES = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_SAID_CHARS_MAX = 400
"""Of what an exception says; its place comes after that."""


def load_application(config: model.ApplicationConfig) -> Application:
    """Import what `config.import_path` names and return it bound.

    Changes this process: the import path and the working directory are those of `config.runtime_env`. Raises
    UserCodeError if user code raised or names no application, InvalidConfig if a directory is missing.
    """
    _enter(config.runtime_env)
    module_name, _, attribute = config.import_path.partition(":")
    module = _import(module_name)
    target = _attribute(module, attribute, config.import_path)
    return _application(target, config)


def user_error(error: BaseException) -> UserCodeError:
    """Return `error`, raised by user code, as a UserCodeError with file and line and a traceback of user frames."""
    if isinstance(error, UserCodeError):
        return error
    if isinstance(error, MeshError):
        said = error.message
    elif isinstance(error, SyntaxError):
        said = f"{type(error).__name__}: {error.msg}"
    else:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        said += ", the code ended its process"
    message = f"{_cut(one_line(said), _SAID_CHARS_MAX)}{_place(error)}"
    return UserCodeError(message, traceback=user_traceback(error), hint=_hint(error))


def user_traceback(error: BaseException) -> str:
    """Return the traceback of `error`, and of what caused it, without the frames of mesh and of the import system."""
    told = traceback.TracebackException(type(error), error, _user_part(error.__traceback__))
    pending, seen = [told], set[int]()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        part.stack[:] = [frame for frame in part.stack if _is_user_file(frame.filename)]
        pending += [linked for linked in (part.__cause__, part.__context__) if linked is not None]
    return cut_front(without_cache("".join(told.format()).rstrip()), DETAILS_CHARS_MAX)


def _hint(error: BaseException) -> str:
    if isinstance(error, MeshError) and error.hint:
        return error.hint
    if isinstance(error, ModuleNotFoundError):
        return "install it where the workers run, or name its directory in runtime_env.py_modules"
    return MEND


def _enter(runtime_env: model.RuntimeEnv) -> None:
    fields = {"runtime_env.working_dir": runtime_env.working_dir}
    fields |= {f"runtime_env.py_modules[{i}]": path for i, path in enumerate(runtime_env.py_modules)}
    directories = {field: path for field, path in fields.items() if path}
    for field, path in directories.items():
        if not os.path.isdir(path):
            raise InvalidConfig((directory_problem(field, path, "there is no such directory"),))
    sys.path[:0] = [os.path.abspath(path) for path in directories.values()]
    if runtime_env.working_dir:
        os.chdir(runtime_env.working_dir)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _no_module(error.name) from None
        raise user_error(error) from None
    except (Exception, SystemExit) as error:
        raise user_error(error) from None


def _no_module(name: str) -> UserCodeError:
    parent, _, last = name.rpartition(".")
    spec = sys.modules.get(parent) if parent else None
    places = list(getattr(spec, "__path__", ())) if parent else sys.path[:1]
    names = sorted({found for place in places for found in _modules_in(place)})
    # Not the directory: on a worker that is where the code was unpacked to, which tells people nothing.
    where = f" in package {parent!r}" if parent else " in working_dir"
    hint = _similar(last, names, "the modules there") or "name another module, or set runtime_env.working_dir"
    return UserCodeError(f"there is no module {shown(name)}{where}", hint=hint)


def _modules_in(directory: str) -> Iterator[str]:
    try:
        entries = os.listdir(directory or ".")
    except OSError:
        return
    for entry in entries:
        stem, extension = os.path.splitext(entry)
        if (extension == ".py" or os.path.isdir(os.path.join(directory, entry))) and stem.isidentifier():
            yield stem


def _attribute(module: ModuleType, path: str, import_path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            names = [known for known in dir(found) if not known.startswith("_")]
            holder = f"module {module.__name__!r}" if found is module else shown(found)
            text = f"{holder} has no attribute {shown(name)}, which {shown(import_path)} names"
            hint = _similar(name, names, "it has") or f"define {name[:60]} there, or name another attribute"
            raise UserCodeError(text, hint=hint) from None
        except Exception as error:
            raise user_error(error) from None
    return found


def _application(target: Any, config: model.ApplicationConfig) -> Application:
    args = _args(config)
    if isinstance(target, (Application, Deployment)):
        if args:
            kind = "an application" if isinstance(target, Application) else "a deployment"
            text = f"args were given, but {config.import_path!r} is {kind}; only a builder function takes args"
            raise UserCodeError(text, field="args", hint="leave args out, or name a builder function")
        return target if isinstance(target, Application) else _bind(target)
    if not inspect.isroutine(target):
        raise _not_bound(f"{config.import_path!r} is {_described(target)}", target)
    built = _call(target, args, config.import_path)
    if isinstance(built, Application):
        return built
    if isinstance(built, Deployment):
        return _bind(built)
    if inspect.iscoroutine(built):
        built.close()
        text = f"builder {config.import_path!r} is async; it must be a plain function"
        raise UserCodeError(text, hint="write def in place of async def")
    raise _not_bound(f"builder {config.import_path!r} returned {_described(built)}", built)


def _args(config: model.ApplicationConfig) -> dict[str, Any]:
    args = json.loads(config.args_json) if config.args_json else {}
    if not isinstance(args, dict):
        raise UserCodeError(f"args must be a JSON object, not {config.args_json[:60]}", field="args")
    return args


def _bind(deployment: Deployment) -> Application:
    return deployment.bind()


def _call(builder: Callable[..., Any], args: dict[str, Any], import_path: str) -> Any:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except ValueError as error:
        raise UserCodeError(f"builder {import_path!r} cannot be inspected: {error}") from None
    takes_args = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    if args and not takes_args:
        text = f"args were given, but builder {import_path!r} takes no parameter"
        raise UserCodeError(text, field="args", hint="leave args out, or give the builder a parameter for them")
    try:
        return builder(args) if takes_args else builder()
    except (Exception, SystemExit) as error:
        raise user_error(error) from None


def _described(value: Any) -> str:
    if inspect.isclass(value):
        return f"the class {value.__name__!r}, not a deployment"
    return f"a value of type {type(value).__name__!r}, not an application"


def _not_bound(text: str, value: Any) -> UserCodeError:
    if inspect.isclass(value):
        return UserCodeError(text, hint="decorate it with @mesh.deployment")
    return UserCodeError(text, hint="name a bound deployment (such as Slow.bind()) or a function that returns one")


def _similar(name: str, names: list[str], others: str) -> str:
    """Return a hint that names what is nearest, else what there is; "" if there is nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = ", …" if len(names) > 10 else ""
    return f"{others}: {', '.join(names[:10])}{more}" if names else ""


def _place(error: BaseException) -> str:
    """Return " (file.py:4)": the last frame in the user's own directories, else the last one of all."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" ({_shown_path(error.filename)}:{error.lineno})"
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    user_frames = [(path, line) for path, line in frames if _is_user_file(path)]
    if not user_frames:
        return ""
    own = [(path, line) for path, line in user_frames if _shown_path(path) != path]
    path, line = (own or user_frames)[-1]
    return f" ({_shown_path(path)}:{line})"


def _shown_path(path: str) -> str:
    """Return `path` as seen from the working directory if it lies below it and is not an installed package."""
    relative = os.path.relpath(path)
    inside = not relative.startswith(os.pardir) and "site-packages" not in relative
    return relative if inside else without_cache(path)


def _is_user_file(path: str) -> bool:
    return not path.startswith(("<frozen ", _OWN_FILES)) and path != importlib.__file__


def _user_part(part: TracebackType | None) -> TracebackType | None:
    while part is not None and not _is_user_file(part.tb_frame.f_code.co_filename):
        part = part.tb_next
    return part


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
