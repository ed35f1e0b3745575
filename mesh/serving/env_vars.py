"""The rules of `runtime_env.env_vars`: names, values, and references to secrets.

Owns them once, for the config file, the control plane and the warning about secrets that stand in plain text. A
reference says where on the worker a value is; this module never sees that value. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mesh.errors import Problem
from mesh.model import RuntimeEnv

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
"""Names of variables that every shell and C library takes (POSIX)."""
NAME_CHARS_MAX = 200
VALUE_BYTES_MAX = 64 * 1024
PATH_CHARS_MAX = 4096
_NAME_HINT = "write letters, digits and '_', such as DB_PASSWORD"
_SECRET = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|PWD|TOKEN|SECRETS?|CREDENTIALS?|KEY|APIKEY|AUTH)(?:$|_)"
    r"|(?:PASSWORD|TOKEN|SECRET|APIKEY)$"
)
_PUBLIC = re.compile(r"^PWD$|PUBLIC_KEY|KEY_(?:ID|FILE|PATH)$|_(?:FILE|PATH|DIR|URL|TTL|NAME)$|TOKENIZERS?_")


def env_vars_problems(env: RuntimeEnv, *, at: str) -> Iterator[Problem]:
    """Yield what is wrong with the variables of an environment; `at` is the path of `env_vars` in the config."""
    seen: set[str] = set()
    for values in (env.env_vars, env.env_vars_from_env, env.env_vars_from_file):
        for name in sorted(values):
            if wrong := env_name_problem(name):
                yield Problem(f"{at}.{name}" if name.isprintable() else at, wrong, _NAME_HINT)
            elif name in seen:
                yield Problem(f"{at}.{name}", "is set in two ways", "give a value or one reference")
            seen.add(name)
    for name, value in sorted(env.env_vars.items()):
        if "\0" in value:
            yield Problem(f"{at}.{name}", "holds a NUL, which no variable can", "remove it")
        elif len(value.encode("utf-8", "surrogatepass")) > VALUE_BYTES_MAX:
            yield Problem(f"{at}.{name}", f"is larger than {VALUE_BYTES_MAX // 1024} KiB", "put it into a file")
    for name, source in sorted(env.env_vars_from_env.items()):
        if wrong := env_name_problem(source):
            yield Problem(f"{at}.{name}.from_env", wrong, _NAME_HINT)
    for name, path in sorted(env.env_vars_from_file.items()):
        if wrong := _path_problem(path):
            yield Problem(f"{at}.{name}.from_file", wrong, "write the file's whole path on the worker")


def env_name_problem(name: str) -> str:
    """Return what is wrong with the name of a variable, or ""."""
    if len(name) <= NAME_CHARS_MAX and NAME.match(name):
        return ""
    return f"{name[:60]!r} is not the name of an environment variable"


def plain_secrets(env: RuntimeEnv) -> list[str]:
    """Return the names of variables that look like secrets and stand in plain text, in order."""
    return sorted(name for name, value in env.env_vars.items() if value and _is_secret(name.upper()))


def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None and _PUBLIC.search(name) is None


def _path_problem(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        return f"must be an absolute path, not {path[:60]!r}"
    return "" if len(path) <= PATH_CHARS_MAX else f"is longer than {PATH_CHARS_MAX} characters"
