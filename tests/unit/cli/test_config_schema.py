"""The JSON Schema says of a file what the reader says, as far as a schema can."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from mesh.cli import config_fields, config_file, config_schema, strict_yaml
from mesh.cli.config_file import InvalidFile, Surroundings
from mesh.serving.options import DEPLOYMENT_OPTIONS, JSON_OPTIONS, OPTIONS
from tests.support.mesh_process import ROOT

SCHEMA = config_schema.schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def accepted(text: str) -> tuple[bool, bool]:
    """Whether the reader takes a file, and whether the schema does."""
    try:
        config_file.parse(text, path="mesh.yaml", surroundings=Surroundings("/", {}))
        read = True
    except InvalidFile:
        read = False
    return read, VALIDATOR.is_valid(strict_yaml.parse(text, {}).value)


def files() -> Iterator[tuple[str, str]]:
    """Every config file of the project, those in documents included."""
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        yield str(path.relative_to(ROOT)), path.read_text()
    yield "benchmarks/config.yaml", (ROOT / "benchmarks" / "config.yaml").read_text()
    for document in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]):
        for i, block in enumerate(re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)):
            if re.search(r"^applications:", block, re.MULTILINE):
                yield f"{document.relative_to(ROOT)}[{i}]", block


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    json.dumps(SCHEMA, allow_nan=False)


def test_every_field_is_described() -> None:
    def described(schema: dict[str, Any]) -> Iterator[bool]:
        for field in schema.get("properties", {}).values():
            yield bool(field.get("description"))
            yield from described(field)

    assert all(described(SCHEMA))
    assert set(config_fields.DEPLOYMENT) == {"name", *OPTIONS}
    assert set(config_fields.JSON) == set(JSON_OPTIONS)


@pytest.mark.parametrize(("name", "text"), list(files()))
def test_every_config_file_of_the_project_is_valid(name: str, text: str) -> None:
    document = strict_yaml.parse(text, {})
    assert document.faults == []
    assert [error.message for error in VALIDATOR.iter_errors(document.value)] == []


def application(fields: str) -> str:
    return f"applications:\n- import_path: a:b\n  {fields}\n"


GOOD = [
    "applications: []",
    "http_options: {host: null, port: 0, request_timeout_s: 1.5, cors: null}\napplications: []",
    "http_options: {cors: {allow_origins: ['*'], max_age_s: 0, allow_credentials: null}}\napplications: []",
    "grpc_options: {port: null}\napplications: []",
    application("route_prefix: null"),
    application("route_prefix: /a/b-c"),
    application("runtime_env: {working_dir: '.', py_modules: [lib], env_vars: {A: x, B: {from_env: C}}}"),
    application("runtime_env: {env_vars: {A: {from_file: /run/a}}}"),
    application("args: {a: [1, {b: null}]}"),
    application("deployments: [{name: D, num_replicas: null, json: {proto_names: true}, user_config: [1]}]"),
    application("deployments: [{name: D, json: null, user_config: null}]"),
    application("import_path: pkg.mod_1:obj.attribute").replace("import_path: a:b\n  ", ""),
    "target_capacity: 100\nlogging_config: null\napplications: []",
    "grpc_options: {enable_reflection: true, grpc_servicer_functions: []}\napplications: []",
    application(
        "deployments: [{name: D, ray_actor_options: {num_gpus: 0.0}, backpressure_config: {status_code: 503}}]"
    ),
]
BAD = [
    "[]",
    "{}",
    "applications: {}",
    "applications: [1]",
    "applications: [{}]",
    "http_options: 3\napplications: []",
    "http_options: {port: 65536}\napplications: []",
    "http_options: {port: '80'}\napplications: []",
    "http_options: {host: 3}\napplications: []",
    "http_options: {request_timeout_s: 0}\napplications: []",
    "http_options: {cors: {}}\napplications: []",
    "http_options: {cors: {allow_origins: '*'}}\napplications: []",
    "http_options: {cors: {allow_origins: [], max_age_s: 1.5}}\napplications: []",
    "grpc_options: {prot: 1}\napplications: []",
    "applicatons: []\napplications: []",
    application("name: ''"),
    application("name: -a"),
    application("name: " + "a" * 64),
    application("route_prefix: shop"),
    application("route_prefix: /shop/"),
    application("route_prefix: /a//b"),
    application("route_prefix: /-/a"),
    application("route_prefix: '/{a}'"),
    application("import_path: a.b").replace("import_path: a:b\n  ", ""),
    application("import_path: a.py:b").replace("import_path: a:b\n  ", "").replace("a.py", "a/b"),
    application("import_path: 'a:b:c'").replace("import_path: a:b\n  ", ""),
    application("import_path: '1a:b'").replace("import_path: a:b\n  ", ""),
    application("runtime_env: []"),
    application("runtime_env: {conda: env}"),
    application("runtime_env: {pip: numpy}"),
    application("runtime_env: {pip: [1]}"),
    application("runtime_env: {env_vars: {A: 1}}"),
    application("runtime_env: {env_vars: {'A B': x}}"),
    application("runtime_env: {env_vars: {A: {}}}"),
    application("runtime_env: {env_vars: {A: {from_env: B, from_file: /c}}}"),
    application("runtime_env: {env_vars: {A: {from_file: relative}}}"),
    application("args: [1]"),
    application("deployments: {}"),
    application("deployments: [{num_replicas: 1}]"),
    application("deployments: [{name: D, num_replicas: auto}]"),
    application("deployments: [{name: D, num_replicas: 1.5}]"),
    application("deployments: [{name: D, num_replicas: true}]"),
    application("deployments: [{name: D, max_queued_requests: -2}]"),
    application("deployments: [{name: D, json: {emit: true}}]"),
    application("deployments: [{name: D, json: {proto_names: 1}}]"),
    application("deployments: [{name: D, max_ongoing: 1}]"),
    application("deployments: [{name: D, autoscaling_config: {min_replicas: 1}}]"),
    application("deployments: [{name: D, ray_actor_options: {num_cpus: 1}}]"),
    application("deployments: [{name: D, ray_actor_options: {num_spu: null}}]"),
    "proxy_location: EveryNode\napplications: []",
    "target_capacity: 50\napplications: []",
    *(application(f"deployments: [{{name: D, {name}: {r.high + 1}}}]") for name, r in DEPLOYMENT_OPTIONS.items()),
    *(application(f"deployments: [{{name: D, {name}: {r.low - 1}}}]") for name, r in DEPLOYMENT_OPTIONS.items()),
]


@pytest.mark.parametrize("text", GOOD)
def test_reader_and_schema_accept(text: str) -> None:
    assert accepted(text) == (True, True)


@pytest.mark.parametrize("text", BAD)
def test_reader_and_schema_refuse(text: str) -> None:
    assert accepted(text) == (False, False)
