"""The environment variables of a replica or a build, with the values that are kept on this worker only.

Owns the reading of references: a variable of the worker's own environment, or a file here. What was read goes to the
process that is started and nowhere else: no error, log or status has it. Called by whoever launches a process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from mesh import settings
from mesh.errors import InvalidConfig, Problem
from mesh.model import RuntimeEnv
from mesh.serving.env_vars import VALUE_BYTES_MAX

_FIELD = "runtime_env.env_vars"


def resolved(env: RuntimeEnv) -> Mapping[str, str]:
    """Return all variables with their values. Raises InvalidConfig, which names the field and never a value."""
    values = dict(env.env_vars)
    own = settings.environment() if env.env_vars_from_env else {}
    for name, source in env.env_vars_from_env.items():
        if source not in own:
            text = f"the worker has no environment variable {source!r}"
            raise _invalid(name, text, "set it where the workers are started")
        values[name] = own[source]
    for name, path in env.env_vars_from_file.items():
        values[name] = _content(name, path)
    return values


def _content(name: str, path: str) -> str:
    try:
        # Not blocking: a named pipe must not stop the worker.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _invalid(name, f"{path!r} on the worker is no regular file", "name a file")
            data = file.read(VALUE_BYTES_MAX + 2)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its path is none"
        raise _invalid(name, f"cannot read {path!r} on the worker: {why}", "it has to be on every worker") from None
    value = data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data
    if len(value) > VALUE_BYTES_MAX:
        raise _invalid(name, f"{path!r} on the worker is larger than {VALUE_BYTES_MAX // 1024} KiB", "name another")
    if b"\0" in value:
        raise _invalid(name, f"{path!r} on the worker holds a NUL, which no variable can", "name a file of text")
    return os.fsdecode(value)


def _invalid(name: str, message: str, hint: str) -> InvalidConfig:
    return InvalidConfig((Problem(f"{_FIELD}.{name}", message, hint),))
