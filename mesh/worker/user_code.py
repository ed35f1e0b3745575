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
from mesh.errors import DeployFailed, MeshError, UserCodeError
from mesh.serving.deployment import Application, Deployment

_OWN_FILES = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MESSAGE_CHARS_MAX = 2000
_TRACEBACK_CHARS_MAX = 16_000


def load_application(config: model.ApplicationConfig) -> Application:
    """Import what `config.import_path` names and return it bound.

    Changes this process: the import path and the working directory are those of `config.runtime_env`. Raises
    UserCodeError if user code raised or names no application, DeployFailed if a directory is missing.
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
        said = f"{error.message}; {error.hint}" if error.hint else error.message
    elif isinstance(error, SyntaxError):
        said = f"{type(error).__name__}: {error.msg}"
    else:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        said += ", the code ended its process"
    message = f"{_cut(said, _MESSAGE_CHARS_MAX)}{_place(error)}"
    return UserCodeError(message, traceback=user_traceback(error))


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
    return _cut_front("".join(told.format()).rstrip(), _TRACEBACK_CHARS_MAX)


def _enter(runtime_env: model.RuntimeEnv) -> None:
    directories = [path for path in (runtime_env.working_dir, *runtime_env.py_modules) if path]
    for path in directories:
        if not os.path.isdir(path):
            hint = "it has to be present on every worker"
            raise DeployFailed(f"directory {path!r} of runtime_env does not exist here", hint=hint)
    sys.path[:0] = [os.path.abspath(path) for path in directories]
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
    where = f" in {places[0]}" if places else ""
    return UserCodeError(f"there is no module {name!r}{where}{_similar(last, names)}", traceback="")


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
            holder = f"module {module.__name__!r}" if found is module else repr(found)
            text = f"{holder} has no attribute {name!r}, which {import_path!r} names{_similar(name, names)}"
            raise UserCodeError(text, traceback="") from None
        except Exception as error:
            raise user_error(error) from None
    return found


def _application(target: Any, config: model.ApplicationConfig) -> Application:
    args = _args(config)
    if isinstance(target, (Application, Deployment)):
        if args:
            kind = "an application" if isinstance(target, Application) else "a deployment"
            text = f"args were given, but {config.import_path!r} is {kind}; only a builder function takes args"
            raise UserCodeError(text, traceback="")
        return target if isinstance(target, Application) else _bind(target)
    if not inspect.isroutine(target):
        raise UserCodeError(f"{config.import_path!r} is {_described(target)}", traceback="")
    built = _call(target, args, config.import_path)
    if isinstance(built, Application):
        return built
    if isinstance(built, Deployment):
        return _bind(built)
    if inspect.iscoroutine(built):
        built.close()
        raise UserCodeError(f"builder {config.import_path!r} is async; it must be a plain function", traceback="")
    raise UserCodeError(f"builder {config.import_path!r} returned {_described(built)}", traceback="")


def _args(config: model.ApplicationConfig) -> dict[str, Any]:
    args = json.loads(config.args_json) if config.args_json else {}
    if not isinstance(args, dict):
        raise DeployFailed(f"args must be a JSON object, not {config.args_json[:60]}")
    return args


def _bind(deployment: Deployment) -> Application:
    return deployment.bind()


def _call(builder: Callable[..., Any], args: dict[str, Any], import_path: str) -> Any:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except ValueError as error:
        raise UserCodeError(f"builder {import_path!r} cannot be inspected: {error}", traceback="") from None
    takes_args = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    if args and not takes_args:
        raise UserCodeError(f"args were given, but builder {import_path!r} takes no parameter", traceback="")
    try:
        return builder(args) if takes_args else builder()
    except (Exception, SystemExit) as error:
        raise user_error(error) from None


def _described(value: Any) -> str:
    if inspect.isclass(value):
        return f"the class {value.__name__!r}, not a deployment; decorate it with @mesh.deployment"
    expected = "expected a bound deployment (such as Slow.bind()), a deployment, or a function that returns one"
    return f"a value of type {type(value).__name__!r}; {expected}"


def _similar(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it has {', '.join(names[:10])}" if names else ""


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
    return relative if inside else path


def _is_user_file(path: str) -> bool:
    return not path.startswith(("<frozen ", _OWN_FILES)) and path != importlib.__file__


def _user_part(part: TracebackType | None) -> TracebackType | None:
    while part is not None and not _is_user_file(part.tb_frame.f_code.co_filename):
        part = part.tb_next
    return part


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _cut_front(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else "…" + text[-chars_max:]
