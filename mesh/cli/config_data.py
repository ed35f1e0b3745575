"""A Config as plain data and as text of a config file, which `config_file.parse` reads back to the same value.

Owns the shape that is written. Pure. Called by `config`, `diff` and `build`.
"""

from __future__ import annotations

import json
from typing import Any

from mesh.cli import strict_yaml
from mesh.cli.config_values import Config
from mesh.model import ApplicationConfig, Cors, DeploymentConfig, RuntimeEnv


def render(config: Config) -> str:
    """Return a Config as YAML."""
    return strict_yaml.dump(as_data(config))


def as_data(config: Config) -> dict[str, Any]:
    """Return a Config as plain data of the file's shape, with only what is set."""
    return {**options_data(config), "applications": [application_data(each) for each in config.applications]}


def options_data(config: Config) -> dict[str, Any]:
    """Return what a Config says beside its applications."""
    data: dict[str, Any] = {}
    for name, options in (("http_options", config.http_options), ("grpc_options", config.grpc_options)):
        if options is not None and (fields := _set(options)):
            data[name] = fields
    if config.http_options is not None and config.http_options.cors is not None:
        data["http_options"]["cors"] = _cors_data(config.http_options.cors)
    return data


def application_data(config: ApplicationConfig) -> dict[str, Any]:
    """Return an application as it stands in a config file."""
    data: dict[str, Any] = {
        "name": config.name,
        "route_prefix": config.route_prefix,
        "import_path": config.import_path,
    }
    if config.code_version:
        data["code_version"] = config.code_version
    if env_data := _runtime_env_data(config.runtime_env):
        data["runtime_env"] = env_data
    if config.args_json:
        data["args"] = json.loads(config.args_json)
    if config.deployments:
        data["deployments"] = [deployment_data(deployment) for deployment in config.deployments]
    return data


def deployment_data(config: DeploymentConfig) -> dict[str, Any]:
    """Return a deployment's options as they stand in a config file, with only what is set."""
    data = _set(config)
    if "user_config_json" in data:
        data["user_config"] = json.loads(data.pop("user_config_json"))
    if config.json is not None:
        data["json"] = _set(config.json)
    return data


def _runtime_env_data(env: RuntimeEnv) -> dict[str, Any]:
    env_vars: dict[str, Any] = dict(env.env_vars)
    env_vars |= {name: {"from_env": source} for name, source in env.env_vars_from_env.items()}
    env_vars |= {name: {"from_file": path} for name, path in env.env_vars_from_file.items()}
    data = {
        "working_dir": env.working_dir,
        "py_modules": list(env.py_modules),
        "pip": list(env.pip),
        "env_vars": dict(sorted(env_vars.items())),
    }
    return {name: value for name, value in data.items() if value}


def _cors_data(cors: Cors) -> dict[str, Any]:
    data = {**_set(cors), "allow_origins": list(cors.allow_origins), "allow_headers": list(cors.allow_headers)}
    return {name: value for name, value in data.items() if name != "allow_headers" or value}


def _set(options: Any) -> dict[str, Any]:
    values = ((name, getattr(options, name)) for name in options.__dataclass_fields__)
    return {name: value for name, value in values if value is not None}
