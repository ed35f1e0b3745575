"""The JSON Schema (2020-12) of the config file, for editors and other programs.

Made from what the reader itself goes by: the names of `config_fields`, the ranges of `serving`. It says less than the
reader where a schema cannot say it: names that stand twice, places of code, tags. Pure. Called by `validate --schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.cli import config_fields, ray_serve
from mesh.cli.config_reader import PORT, REQUIREMENTS_SUFFIX, TIMEOUT
from mesh.cli.requirements import LINES_MAX
from mesh.model import DeploymentSettings
from mesh.packages.place import CHARACTERS_MAX, PY_MODULES_MAX
from mesh.serving import cors, env_vars
from mesh.serving.options import DEPLOYMENT_OPTIONS, Range

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
_SEGMENT = r"[^\s:./\\\d-][^\s:./\\-]*"
_IMPORT_PATH = rf"^{_SEGMENT}(\.{_SEGMENT})*:{_SEGMENT}(\.{_SEGMENT})*$"
_ROUTE = r"^(/|(?!/-(/|$))(/[^/{}?#%\s]+)+)?$"
_VARIABLE = rf"^[A-Za-z_][A-Za-z0-9_]{{0,{env_vars.NAME_CHARS_MAX - 1}}}$"
_TEXT: Schema = {"type": "string"}
_PLACE: Schema = {"type": "string", "maxLength": CHARACTERS_MAX}


def schema() -> Schema:
    """Return the schema."""
    root = {
        "http_options": _http(),
        "grpc_options": _object("grpc_options", config_fields.GRPC, {"port": _number(PORT)}),
        "applications": {"type": "array", "items": _application()},
    }
    return {
        "$schema": DIALECT,
        "title": "Config file of meshctl",
        **_object("", config_fields.ROOT, root, required=["applications"]),
    }


def _http() -> Schema:
    allowed: dict[str, Schema] = {
        "allow_origins": {"type": "array", "items": _TEXT, "maxItems": cors.NAMES_MAX},
        "allow_headers": {"type": "array", "items": _TEXT, "maxItems": cors.NAMES_MAX},
        "max_age_s": _number(cors.MAX_AGE_S),
        "allow_credentials": _truth(),
    }
    fields: dict[str, Schema] = {
        "host": {"type": ["string", "null"]},
        "port": _number(PORT),
        "request_timeout_s": _number(TIMEOUT),
        "cors": _nullable(_object(None, config_fields.CORS, allowed, required=["allow_origins"])),
    }
    return _object("http_options", config_fields.HTTP, fields)


def _application() -> Schema:
    fields: dict[str, Schema] = {
        "name": {"type": "string", "pattern": _NAME, "default": "default"},
        "route_prefix": {"type": ["string", "null"], "pattern": _ROUTE, "default": "/"},
        "import_path": {"type": "string", "pattern": _IMPORT_PATH},
        "runtime_env": _runtime_env(),
        "args": {"type": "object"},
        "deployments": {"type": "array", "items": _deployment()},
        "code_version": _TEXT,
    }
    return _object("applications", config_fields.APPLICATION, fields, required=["import_path"])


def _runtime_env() -> Schema:
    references: dict[str, Schema] = {
        "from_env": {"type": "string", "pattern": _VARIABLE},
        "from_file": {"type": "string", "pattern": "^/", "maxLength": env_vars.PATH_CHARS_MAX},
    }
    reference = _object(None, config_fields.REFERENCE, references)
    requirements_file = {"type": "string", "pattern": rf"\{REQUIREMENTS_SUFFIX}$"}
    fields: dict[str, Schema] = {
        "working_dir": {**_PLACE, "default": "."},
        "py_modules": {"type": "array", "items": _PLACE, "maxItems": PY_MODULES_MAX},
        "pip": {"anyOf": [{"type": "array", "items": _TEXT, "maxItems": LINES_MAX}, requirements_file]},
        "env_vars": {
            "type": "object",
            "propertyNames": {"pattern": _VARIABLE},
            "additionalProperties": {"anyOf": [_TEXT, {**reference, "minProperties": 1, "maxProperties": 1}]},
        },
    }
    return _object("runtime_env", config_fields.RUNTIME_ENV, fields)


def _deployment() -> Schema:
    defaults = DeploymentSettings()
    fields: dict[str, Schema] = {"name": {"type": "string", "pattern": _NAME}, "user_config": {}}
    fields["json"] = _nullable(_object(None, config_fields.JSON, {name: _truth() for name in config_fields.JSON}))
    for name, allowed in DEPLOYMENT_OPTIONS.items():
        fields[name] = _number(allowed)
        if default := getattr(defaults, name):
            fields[name]["default"] = default
    return _object("deployments", config_fields.DEPLOYMENT, fields, required=["name"])


def _object(
    level: str | None, about: Mapping[str, str], fields: Mapping[str, Schema], *, required: list[str] | None = None
) -> Schema:
    """Return the schema of a mapping with exactly the fields that `about` describes. `level` is that of Ray Serve's."""
    properties = {name: {"description": text, **fields[name]} for name, text in about.items()}
    for name, field in ray_serve.FIELDS[level].items() if level is not None else ():
        if not field.same:
            properties[name] = {"description": f"Of Ray Serve: {field.note}.", "deprecated": True, **_accepted(field)}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _accepted(field: ray_serve.RayField) -> Schema:
    """Return the schema of the values of one of Ray Serve's fields that ask for what holds anyway."""
    values: Schema = {"enum": [None, *field.accepted]}
    if not field.inner:
        return values
    inner = {name: _accepted(each) for name, each in ray_serve.FIELDS[field.inner].items()}
    return {"anyOf": [values, {"type": "object", "properties": inner, "additionalProperties": False}]}


def _number(allowed: Range) -> Schema:
    kind = "integer" if allowed.whole else "number"
    return {"type": [kind, "null"], "minimum": allowed.low, "maximum": allowed.high}


def _truth() -> Schema:
    return {"type": ["boolean", "null"]}


def _nullable(found: Schema) -> Schema:
    return {**found, "type": [found["type"], "null"]}
