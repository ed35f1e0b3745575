"""Files as Ray Serve's documentation shows them: taken where they mean the same, else refused with what to write."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer.main

from mesh.cli import config_fields, config_file, ray_serve
from mesh.cli.commands import assembled
from mesh.cli.config_file import Config, InvalidFile, Surroundings
from tests.support.mesh_process import ROOT

PAGE = (ROOT / "docs" / "coming-from-ray-serve.md").read_text()
TITLES = {
    "": "The file",
    "http_options": "http_options",
    "grpc_options": "grpc_options",
    "applications": "applications",
    "runtime_env": "runtime_env",
    "deployments": "deployments",
    "logging_config": "logging_config",
    "backpressure_config": "backpressure_config",
    "ray_actor_options": "ray_actor_options",
}


def parse(text: str) -> Config:
    return config_file.parse(text, path="serve.yaml", surroundings=Surroundings("/base", {})).config


def refused(text: str) -> dict[str, tuple[str, str]]:
    """Message and hint by field."""
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    return {fault.problem.field: (fault.problem.message, fault.problem.hint) for fault in caught.value.faults}


def test_a_file_with_what_both_have() -> None:
    config = parse("""
http_options:
  host: 0.0.0.0
  port: 8000
  request_timeout_s: 30
  root_path: ""
grpc_options:
  port: 9000
  grpc_servicer_functions: []
target_capacity: null
logging_config: null
applications:
  - name: text_ml
    route_prefix: /text_ml
    import_path: text_ml:app
    runtime_env:
      working_dir: "https://example.com/text_ml/archive.zip"
      env_vars: {LANG: fr}
    args: {model: small}
    autoscaling_policy: null
    external_scaler_enabled: false
    deployments:
      - name: Translator
        num_replicas: 1
        max_ongoing_requests: 5
        max_queued_requests: -1
        ray_actor_options: {num_gpus: 0.0}
        user_config: {language: french}
        autoscaling_config: null
        health_check_period_s: 10
        health_check_timeout_s: 30
        graceful_shutdown_timeout_s: 20
        rolling_update_percentage: 0.2
        backpressure_config: {status_code: 503, retry_after_s: null}
      - name: Summarizer
        num_replicas: 2
        ray_actor_options: {}
  - name: calculator
    route_prefix: /calculator
    import_path: calculator:app
""")
    text, calculator = config.applications
    assert text.runtime_env.working_dir == "https://example.com/text_ml/archive.zip"
    assert [deployment.name for deployment in text.deployments] == ["Translator", "Summarizer"]
    assert text.deployments[0].max_queued_requests == -1
    assert calculator.route_prefix == "/calculator"


def test_what_serve_build_writes() -> None:
    found = refused("""
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
grpc_options:
  port: 9000
  grpc_servicer_functions: [hello_pb2_grpc.add_GreeterServicer_to_server]
logging_config:
  encoding: TEXT
  log_level: INFO
  logs_dir: null
  enable_access_log: true
  additional_log_standard_attrs: []
applications:
- name: app1
  route_prefix: /
  import_path: fruit:deployment_graph
  runtime_env: {}
  deployments:
  - name: MangoStand
    num_replicas: 2
    user_config: {price: 3}
    ray_actor_options: {num_cpus: 0.1}
  - name: FruitMarket
    num_replicas: 2
""")
    assert set(found) == {
        "proxy_location",
        "grpc_options.grpc_servicer_functions",
        "logging_config.encoding",
        "logging_config.log_level",
        "logging_config.enable_access_log",
        "applications[0].deployments[0].ray_actor_options.num_cpus",
    }
    assert {message for message, _ in found.values()} == {"is a field of Ray Serve that mesh does not have"}
    assert found["proxy_location"][1].startswith("leave it out: start meshctl gateway")
    assert found["logging_config.log_level"][1] == "start processes with --log-level"


def test_autoscaling_and_placement() -> None:
    found = refused("""
applications:
- name: llm
  import_path: llm.serve.app
  external_scaler_enabled: true
  logging_config: {log_level: DEBUG}
  runtime_env:
    pip: {packages: [torch], pip_check: false}
    conda: {dependencies: [pip]}
    container: {image: my-image}
    image_uri: my-image
  deployments:
  - name: A
    num_replicas: auto
    max_concurrent_queries: 10
    graceful_shutdown_wait_loop_s: 2
    max_constructor_retry_count: 3
    request_router_config: {initial_backoff_s: 0.1}
    max_surge_percent: 25
  - name: B
    autoscaling_config: {min_replicas: 1, max_replicas: 10, target_ongoing_requests: 2}
    placement_group_bundles: [{CPU: 1}]
    placement_group_strategy: PACK
    max_replicas_per_node: 2
    gang_scheduling_config: {gang_size: 2}
    backpressure_config: {status_code: 429, retry_after_s: 1}
    ray_actor_options: {num_gpus: 1, nmu_cpus: 2, runtime_env: {pip: [torch]}}
""")
    at = "applications[0]"
    hints = {field.removeprefix(f"{at}."): hint for field, (_, hint) in found.items()}
    assert hints["import_path"] == "write llm.serve:app"
    assert hints["external_scaler_enabled"].startswith("leave it out: num_replicas may always be changed")
    assert hints["runtime_env.conda"] == "install what is needed where the workers run, or list it under pip"
    assert hints["deployments[0].num_replicas"].startswith("write a number: mesh does not follow load")
    assert hints["deployments[0].max_concurrent_queries"] == "write max_ongoing_requests"
    assert hints["deployments[1].backpressure_config.status_code"] == "leave it out: a shed request is 503"
    assert hints["deployments[1].ray_actor_options.nmu_cpus"] == "did you mean 'num_cpus'?"
    assert hints["deployments[1].ray_actor_options.runtime_env"] == "write it in the application"
    expected = {
        "runtime_env.pip",
        "runtime_env.container",
        "runtime_env.image_uri",
        "logging_config.log_level",
        "deployments[0].graceful_shutdown_wait_loop_s",
        "deployments[0].max_constructor_retry_count",
        "deployments[0].request_router_config",
        "deployments[0].max_surge_percent",
        "deployments[1].autoscaling_config",
        "deployments[1].placement_group_bundles",
        "deployments[1].placement_group_strategy",
        "deployments[1].max_replicas_per_node",
        "deployments[1].gang_scheduling_config",
        "deployments[1].backpressure_config.retry_after_s",
        "deployments[1].ray_actor_options.num_gpus",
    }
    assert expected <= set(hints)
    assert all(hints.values())


def test_a_file_for_one_application_of_old_times() -> None:
    found = refused("import_path: fruit:app\nruntime_env: {}\nhost: 0.0.0.0\nport: 8000\ndeployments: []\n")
    assert found["import_path"][1] == "move it into an item of applications"
    assert found["host"][1] == "write http_options.host"
    assert "applications" in found


def every_field() -> Iterator[tuple[str, str]]:
    for level in config_fields.LEVELS:
        for name, field in ray_serve.FIELDS[level].items():
            if not field.same:
                yield level, name


@pytest.mark.parametrize(("level", "name"), list(every_field()))
def test_every_field_is_refused_with_what_to_write(level: str, name: str) -> None:
    heads = {
        "": "applications: []\n",
        "http_options": "applications: []\nhttp_options:\n  ",
        "grpc_options": "applications: []\ngrpc_options:\n  ",
        "applications": "applications:\n- import_path: a:b\n  ",
        "runtime_env": "applications:\n- import_path: a:b\n  runtime_env:\n    ",
        "deployments": "applications:\n- import_path: a:b\n  deployments:\n  - name: D\n    ",
    }
    ((_, (message, hint)),) = refused(f"{heads[level]}{name}: [something]\n").items()
    assert message == "is a field of Ray Serve that mesh does not have"
    assert hint == ray_serve.FIELDS[level][name].note
    parse(f"{heads[level]}{name}: null\n")


def test_what_is_the_same_is_a_field_of_ours() -> None:
    for level, fields in config_fields.LEVELS.items():
        same = {name for name, field in ray_serve.FIELDS[level].items() if field.same}
        assert same <= fields.keys()
        assert not fields.keys() & (ray_serve.FIELDS[level].keys() - same)


# The page


def rows(title: str) -> list[tuple[str, str]]:
    """The rows of the table under a heading."""
    found = re.search(rf"^### `?{re.escape(title)}`?\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    lines = re.findall(r"^\| `(.+?)` \| (.+) \|$", found[1], re.MULTILINE)
    return [(name.replace("\\|", "|"), text) for name, text in lines]


@pytest.mark.parametrize("level", ray_serve.FIELDS)
def test_the_page_has_every_field(level: str) -> None:
    assert rows(TITLES[level]) == [(name, field.note) for name, field in ray_serve.FIELDS[level].items()]


def test_the_page_names_what_stands_within_fields() -> None:
    names = (
        "min_replicas max_replicas initial_replicas target_ongoing_requests look_back_period_s metrics_interval_s "
        "upscaling_factor downscaling_factor upscale_delay_s downscale_delay_s downscale_to_zero_delay_s "
        "aggregation_function policy gang_size initial_backoff_s sampling_ratio exporter_import_path"
    )
    for within in names.split():
        assert f"`{within}`" in PAGE


RAY_COMMANDS = {
    "serve start": "--address --http-host --http-port --proxy-location --grpc-port --grpc-servicer-functions "
    "--grpc-enable-reflection",
    "serve run": "CONFIG_OR_IMPORT_PATH KEY=VALUE --runtime-env --runtime-env-json --working-dir --app-dir --address "
    "--blocking --reload --route-prefix --name",
    "serve build": "IMPORT_PATHS --app-dir --output-path --grpc-servicer-functions --grpc-enable-reflection",
    "serve deploy": "CONFIG_OR_IMPORT_PATH KEY=VALUE --runtime-env --runtime-env-json --working-dir --name --address",
    "serve config": "--name --address",
    "serve status": "--name --address",
    "serve shutdown": "--yes --address",
    "serve controller-health": "--address --json",
}


@pytest.mark.parametrize(("command", "flags"), RAY_COMMANDS.items())
def test_the_page_has_every_command(command: str, flags: str) -> None:
    assert [name for name, _ in rows(command)] == [command, *flags.split()]


def test_the_commands_and_flags_that_the_page_names_exist() -> None:
    commands = getattr(typer.main.get_command(assembled()), "commands")  # noqa: B009 - mypy knows no commands of it
    named = re.findall(r"`(meshctl [^`]+)`", PAGE)
    assert named
    for text in named:
        _, word, *rest = text.split()
        assert word in commands, text
        options = {name for parameter in commands[word].params for name in (*parameter.opts, *parameter.secondary_opts)}
        for flag in (part.partition("=")[0] for part in rest if part.startswith("-") and part != "-"):
            assert flag in options, text
    hints = " ".join(field.note for fields in ray_serve.FIELDS.values() for field in fields.values())
    for word in re.findall(r"meshctl (\w+)", hints):
        assert word in commands
