"""A config as the control plane takes it, from the form in which config files have it.

Owns where the two differ. What is allowed in a field is the control plane's to say. Pure. Called by `admin` and
`aio_admin`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from mesh_client.errors import InvalidRequest, Problem
from mesh_client.v1 import deployment_pb2 as pb

_SOURCES = {"from_env": "env_vars_from_env", "from_file": "env_vars_from_file"}


def config_of(given: Mapping[str, Any] | pb.Config) -> pb.Config:
    """Return what a mapping says that has the keys of a config file. Raises InvalidRequest.

    Places of code are as the control plane takes them: directories that are there on the workers, URLs, packages that
    were uploaded. Files here are `meshctl deploy`'s to pack.
    """
    if isinstance(given, pb.Config):
        return given
    config = {**given}
    if isinstance(found := config.get("applications"), list | tuple):
        config["applications"] = [_application(each) for each in found]
    try:
        return json_format.ParseDict(config, pb.Config())
    except json_format.ParseError as error:
        refused = InvalidRequest(f"this is no config: {error}", reason="INVALID_CONFIG", code="INVALID_ARGUMENT")
        refused.problems = (Problem("", str(error)),)
        raise refused from None


def _application(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    application = {**given}
    if "args" in application:
        application["args_json"] = json.dumps(application.pop("args"))
    if isinstance(environment := application.get("runtime_env"), Mapping):
        application["runtime_env"] = _runtime_env(environment)
    if isinstance(deployments := application.get("deployments"), list | tuple):
        application["deployments"] = [_deployment(each) for each in deployments]
    return application


def _deployment(given: Any) -> Any:
    if not isinstance(given, Mapping) or "user_config" not in given:
        return given
    deployment = {**given}
    deployment["user_config_json"] = json.dumps(deployment.pop("user_config"))
    return deployment


def _runtime_env(given: Mapping[str, Any]) -> dict[str, Any]:
    environment = {**given}
    if not isinstance(variables := environment.get("env_vars"), Mapping):
        return environment
    plain = {}
    for name, value in variables.items():
        # A reference names where the worker finds the value.
        if isinstance(value, Mapping) and len(value) == 1 and (source := next(iter(value))) in _SOURCES:
            environment.setdefault(_SOURCES[source], {})[name] = value[source]
        else:
            plain[name] = value
    return environment | {"env_vars": plain}
