"""The rules of every option of a deployment, an application and a config.

Owns names, types, ranges and defaults, once, for the decorator, the config file and the control plane. Returns
problems instead of raising, so that a user sees all of them at once. Pure.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import Problem
from mesh.model import ApplicationConfig, DeploymentConfig, DeploymentSettings, Failure, JsonOptions
from mesh.reasons import Reason

REPLICAS_MAX = 10_000
REQUESTS_MAX = 1_000_000
SECONDS_MAX = 7 * 24 * 3600.0
_SHOWN_CHARS_MAX = 80
_LISTED_MAX = 20
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers an option may take, ends included. `whole` excludes fractions."""

    low: float
    high: float
    whole: bool = True
    meaning: str = ""

    def problem(self, value: object) -> str:
        """Return what is wrong with `value`, or ""."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return f"must be {self._kind}, not {shown(value)}"
        if not self.low <= value <= self.high:
            return f"must be {self._kind} from {self._span}, not {shown(value)}"
        return ""

    @property
    def hint(self) -> str:
        """What mends a wrong value."""
        return f"write {self._kind} from {self._span}"

    @property
    def _kind(self) -> str:
        return "a whole number" if self.whole else "a number"

    @property
    def _span(self) -> str:
        return f"{_plain(self.low)} to {_plain(self.high)}{self.meaning}"


DEPLOYMENT_OPTIONS: Mapping[str, Range] = {
    "num_replicas": Range(0, REPLICAS_MAX),
    "max_ongoing_requests": Range(1, REQUESTS_MAX),
    "max_queued_requests": Range(-1, REQUESTS_MAX, meaning=" (-1: unlimited, 0: never queue)"),
    "request_timeout_s": Range(0.001, SECONDS_MAX, whole=False),
    "graceful_shutdown_timeout_s": Range(0, SECONDS_MAX, whole=False),
    "health_check_period_s": Range(0.1, SECONDS_MAX, whole=False),
    "health_check_timeout_s": Range(0.1, SECONDS_MAX, whole=False),
    "startup_timeout_s": Range(0.1, SECONDS_MAX, whole=False),
    "health_check_failure_threshold": Range(1, 1000),
    "rolling_update_percentage": Range(0.001, 1, whole=False),
}
"""Range of each numeric option of a deployment. `user_config` is any JSON value."""
JSON_OPTIONS = tuple(field.name for field in dataclasses.fields(JsonOptions))
"""What the option `json` of a deployment may say."""
OPTIONS = ("user_config", "json", *DEPLOYMENT_OPTIONS)
"""Names of all options of a deployment, as a user writes them."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `name`, or lists them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {shown(close[0])}?" if close else f"known: {_listed(known)}"


def option_problems(options: Mapping[str, object], *, at: str = "") -> Iterator[Problem]:
    """Yield what is wrong with options of a deployment as a user wrote them (`user_config` and `json` as values)."""
    for name, value in options.items():
        field = f"{at}.{name}" if at else name
        if name == "user_config":
            yield from _json_problem(value, field)
        elif name == "json":
            yield from _json_options_problems(value, field)
        elif (allowed := DEPLOYMENT_OPTIONS.get(name)) is None:
            yield Problem(field, f"unknown option {shown(name)}", nearest(name, ["name", *OPTIONS]))
        elif value is not None and (wrong := allowed.problem(value)):
            yield Problem(field, wrong, allowed.hint)


def as_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that have no problem as the fields of a DeploymentConfig. None stands for not set."""
    fields = {name: value for name, value in options.items() if value is not None}
    if "user_config" in fields:
        fields["user_config_json"] = json.dumps(fields.pop("user_config"), allow_nan=False, sort_keys=True)
    if "json" in fields:
        fields["json"] = JsonOptions(**fields["json"])
    return fields


def option_field(config: ApplicationConfig, deployment: str, option: str) -> str:
    """Return which field of an application's config sets an option of a deployment: its own, else the code's."""
    name = "user_config_json" if option == "user_config" else option
    for i, override in enumerate(config.deployments):
        if override.name == deployment and getattr(override, name) is not None:
            return f"deployments[{i}].{option}"
    return "import_path"


def late_start(config: ApplicationConfig, deployment: str, startup_timeout_s: float) -> Failure:
    """Return the failure of a deployment that was not ready in time."""
    text = f"not ready within {startup_timeout_s:g} s of its start"
    field = option_field(config, deployment, "startup_timeout_s")
    hint = "allow more with startup_timeout_s, or start faster"
    return Failure(text, field, hint, reason=Reason.STARTUP_TIMEOUT)


def deployment_problems(config: DeploymentConfig, *, at: str) -> Iterator[Problem]:
    """Yield what is wrong with one deployment's config."""
    if wrong := name_problem(config.name):
        yield Problem(f"{at}.name", wrong, "name the deployment as the code does")
    for name, allowed in DEPLOYMENT_OPTIONS.items():
        value = getattr(config, name)
        if value is not None and (wrong := allowed.problem(value)):
            yield Problem(f"{at}.{name}", wrong, allowed.hint)


def application_problems(config: ApplicationConfig, *, at: str) -> Iterator[Problem]:
    """Yield what is wrong with one application's config, taken alone."""
    if wrong := name_problem(config.name):
        yield Problem(f"{at}.name", wrong, "choose a name such as 'shop' or 'shop-v2'")
    if wrong := route_problem(config.route_prefix):
        yield Problem(f"{at}.route_prefix", wrong, "write a path such as '/' or '/shop'")
    if wrong := import_path_problem(config.import_path):
        yield Problem(f"{at}.import_path", wrong, "write a module and what it binds, such as 'shop.main:app'")
    seen: dict[str, int] = {}
    for i, deployment in enumerate(config.deployments):
        where = f"{at}.deployments[{i}]"
        yield from deployment_problems(deployment, at=where)
        if (first := seen.setdefault(deployment.name, i)) != i:
            text = f"{shown(deployment.name)} stands twice (also in {at}.deployments[{first}])"
            yield Problem(f"{where}.name", text, "remove one of the two")


def applications_problems(configs: Iterable[ApplicationConfig]) -> Iterator[Problem]:
    """Yield what is wrong with the applications of one config, alone and together."""
    names: dict[str, int] = {}
    routes: dict[str, int] = {}
    for i, config in enumerate(configs):
        at = f"applications[{i}]"
        yield from application_problems(config, at=at)
        if (first := names.setdefault(config.name, i)) != i:
            text = f"name {shown(config.name)} stands twice (also in applications[{first}])"
            yield Problem(f"{at}.name", text, "give each application a name of its own")
        if config.route_prefix and (first := routes.setdefault(config.route_prefix, i)) != i:
            text = f"route_prefix {shown(config.route_prefix)} stands twice (also in applications[{first}])"
            yield Problem(f"{at}.route_prefix", text, "give each application a route of its own")


def name_problem(name: str) -> str:
    """Return what is wrong with the name of an application, a deployment or a worker, or ""."""
    if NAME.match(name):
        return ""
    return f"must be 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at each end, not {shown(name)}"


def route_problem(route: str) -> str:
    """Return what is wrong with a route prefix, or "". The empty route means: not reachable over HTTP."""
    if route in ("", "/"):
        return ""
    if not route.startswith("/"):
        return f"must start with '/', not {shown(route)}"
    if route.endswith("/"):
        return f"must not end with '/', as {shown(route)} does"
    if re.search(r"[{}?#%\s]|//", route):
        return f"must be plain path segments, not {shown(route)}"
    if route == "/-" or route.startswith("/-/"):
        return "'/-/' is mesh's own"
    return ""


def import_path_problem(path: str) -> str:
    """Return what is wrong with an import path, or ""."""
    if IMPORT_PATH.match(path):
        return ""
    return f"must look like 'package.module:attribute', not {shown(path)}"


def resolve(code: DeploymentConfig, override: DeploymentConfig | None) -> DeploymentSettings:
    """Return the settings in force: the config's, else the code's, else the default; so too for each key of `json`."""
    chosen = override or DeploymentConfig()
    values = {field.name: _first(chosen, code, field.name) for field in dataclasses.fields(DeploymentSettings)}
    values["json"] = joined_json(chosen.json, code.json)
    return DeploymentSettings(**{name: value for name, value in values.items() if value is not None})


def joined_json(first: JsonOptions | None, second: JsonOptions | None) -> JsonOptions | None:
    """Return the options of `first`, with those of `second` where it says nothing."""
    if first is None or second is None:
        return first or second
    return JsonOptions(**{name: _first(first, second, name) for name in JSON_OPTIONS})


def _first(first: object, second: object, name: str) -> Any:
    value = getattr(first, name)
    return getattr(second, name) if value is None else value


def _json_problem(value: object, field: str) -> Iterator[Problem]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield Problem(field, f"must be a JSON value: {error}", "write numbers, texts, lists and mappings only")


def _json_options_problems(value: object, field: str) -> Iterator[Problem]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        hint = f"write a mapping of {', '.join(JSON_OPTIONS)} to true or false"
        yield Problem(field, f"must be a mapping, not {shown(value)}", hint)
        return
    for name, setting in value.items():
        if name not in JSON_OPTIONS:
            yield Problem(f"{field}.{name}", f"unknown key {shown(name)}", nearest(str(name), JSON_OPTIONS))
        elif not isinstance(setting, bool):
            yield Problem(f"{field}.{name}", f"must be true or false, not {shown(setting)}", "write true or false")


def shown(value: object) -> str:
    """Return a value as an error shows it: quoted if it is text, and never long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _LISTED_MAX else ""
    return ", ".join(name if len(name) <= _SHOWN_CHARS_MAX else shown(name) for name in names[:_LISTED_MAX]) + more


def _plain(number: float) -> str:
    """Return a number without an exponent: 1000000, 0.001."""
    return str(int(number)) if number == int(number) else str(number)
