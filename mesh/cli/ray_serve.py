"""Ray Serve's config fields: which mean the same here, and what stands for those that do not.

Owns that mapping (docs/coming-from-ray-serve.md shows it); the reader of the config file acts on it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RayField:
    """A field of a Ray Serve file. `note` says what it is here, or what to write instead."""

    note: str
    same: bool = False
    """It is a field of ours, too."""
    accepted: tuple[Any, ...] = ()
    """Values that ask for what holds here anyway; so does null, which stands for not set."""
    inner: str = ""
    """Level of the fields in it, each of which is judged by itself."""


def _same(note: str = "the same") -> RayField:
    return RayField(note, same=True)


_NO_RESERVATION = "leave it out: workers reserve nothing; meshctl worker --max-replicas bounds what one runs"
_NO_LABELS = "leave it out: replicas go where fewest are; start a mesh of its own for hosts of another kind"
_NO_GROUPS = "leave it out: each replica is one process on one worker"
_FIXED = "write num_replicas: mesh does not follow load by itself; change it and deploy again, which restarts nothing"
_MOVE = "move it into an item of applications"
_GATEWAY_LOGS = "leave it out: logs are set by flags of each process"
_IMAGE = "install what is needed where the workers run, or list it under pip"
_TLS = "leave it out: end TLS in the load balancer in front of the gateways"

FIELDS: Mapping[str, Mapping[str, RayField]] = {
    "": {
        "proxy_location": RayField("leave it out: start meshctl gateway on each host where requests come in"),
        "http_options": _same(),
        "grpc_options": _same(),
        "applications": _same("the same; what is not listed is deleted once all that is listed can serve"),
        "controller_options": RayField("leave it out: set variables where meshctl controlplane is started"),
        "logging_config": RayField(_GATEWAY_LOGS, inner="logging_config"),
        "tracing_config": RayField("leave it out: trace in the code; it is given each request's traceparent header"),
        "target_capacity": RayField("write the num_replicas that each deployment is to have", accepted=(100,)),
        "import_path": RayField(_MOVE),
        "runtime_env": RayField(_MOVE),
        "deployments": RayField(_MOVE),
        "host": RayField("write http_options.host"),
        "port": RayField("write http_options.port"),
    },
    "http_options": {
        "host": _same("the same; without it 127.0.0.1, in a file too"),
        "port": _same(),
        "request_timeout_s": _same("the same, for gRPC too; over HTTP the answer is 504, not 408"),
        "root_path": RayField("put it in front of each route_prefix", accepted=("",)),
        "keep_alive_timeout_s": RayField("leave it out: start meshctl gateway with --keep-alive-timeout"),
        "ssl_keyfile": RayField(_TLS),
        "ssl_certfile": RayField(_TLS),
        "ssl_keyfile_password": RayField(_TLS),
        "ssl_ca_certs": RayField(_TLS),
        "location": RayField("leave it out: start meshctl gateway on each host where requests come in"),
        "num_cpus": RayField("leave it out: a gateway is a process that is started by itself", accepted=(0,)),
        "middlewares": RayField("leave it out: wrap what the code serves", accepted=([],)),
    },
    "grpc_options": {
        "port": _same(),
        "grpc_servicer_functions": RayField(
            "leave it out: a deployment that is a generated servicer says itself what it serves", accepted=([],)
        ),
        "request_timeout_s": RayField("write http_options.request_timeout_s, which holds for gRPC too"),
        "enable_reflection": RayField("leave it out: reflection is always on", accepted=(True,)),
    },
    "applications": {
        "name": _same("the same: up to 63 letters, digits, '-', '_' and '.'"),
        "route_prefix": _same("the same; null: not over HTTP"),
        "import_path": _same("the same, as module:attribute only"),
        "runtime_env": _same("the same: working_dir, py_modules, pip and env_vars"),
        "args": _same("the same; values keep their types"),
        "deployments": _same(),
        "autoscaling_policy": RayField(_FIXED),
        "logging_config": RayField(_GATEWAY_LOGS, inner="logging_config"),
        "external_scaler_enabled": RayField(
            "leave it out: num_replicas may always be changed, by anybody who may deploy", accepted=(False,)
        ),
        "host": RayField("write http_options.host, beside applications"),
        "port": RayField("write http_options.port, beside applications"),
        "docs_path": RayField("leave it out: /-/docs shows the REST routes of all applications"),
    },
    "runtime_env": {
        "working_dir": _same("the same, and a local directory may stand there"),
        "py_modules": _same("the same, and local directories may stand there"),
        "pip": _same("the same: a list, or a requirements file; a mapping is refused"),
        "env_vars": _same("the same, and secrets by reference: {from_env: NAME}, {from_file: /PATH}"),
        "uv": RayField("write the list under pip; uv installs it"),
        "conda": RayField(_IMAGE),
        "container": RayField("run workers from an image that has the code"),
        "image_uri": RayField("run workers from that image"),
        "py_executable": RayField("leave it out: replicas run the worker's Python"),
        "excludes": RayField("list it in a file .meshignore in the directory"),
        "worker_process_setup_hook": RayField("do it where the module is imported, or in the constructor"),
        "config": RayField("leave it out: startup_timeout_s of a deployment bounds its start"),
        "nsight": RayField("leave it out: start the profiler from the code"),
        "rocprof_sys": RayField("leave it out: start the profiler from the code"),
        "mpi": RayField("leave it out: each replica is one process on one worker"),
    },
    "deployments": {
        "name": _same(),
        "num_replicas": _same("the same, as a number; 0 is allowed; auto is refused"),
        "max_ongoing_requests": _same("the same; without it 100, not 5"),
        "max_queued_requests": _same("the same; without it 100, not unlimited; 0 is allowed: nothing waits"),
        "user_config": _same("the same; if reconfigure raises the deploy fails and the old value holds"),
        "graceful_shutdown_timeout_s": _same(),
        "health_check_period_s": _same(),
        "health_check_timeout_s": _same(),
        "rolling_update_percentage": _same("the same; new replicas always start beside the old ones"),
        "autoscaling_config": RayField(_FIXED),
        "backpressure_config": RayField(
            "leave it out: a shed request is 503, with Retry-After", inner="backpressure_config"
        ),
        "graceful_shutdown_wait_loop_s": RayField("leave it out: a replica stops as soon as its last request is over"),
        "max_constructor_retry_count": RayField("write startup_timeout_s: what is not ready by then has failed"),
        "ray_actor_options": RayField("leave it out: replicas are processes", inner="ray_actor_options"),
        "placement_group_bundles": RayField(_NO_GROUPS),
        "placement_group_strategy": RayField(_NO_GROUPS),
        "placement_group_bundle_label_selector": RayField(_NO_GROUPS),
        "placement_group_fallback_strategy": RayField(_NO_GROUPS),
        "max_replicas_per_node": RayField("start workers with --max-replicas, which bounds all that one runs"),
        "gang_scheduling_config": RayField("leave it out: each replica starts and stops by itself"),
        "deployment_actors": RayField("make another deployment or service of it"),
        "request_router_config": RayField("leave it out: a request goes to the replica with the fewest"),
        "logging_config": RayField(_GATEWAY_LOGS, inner="logging_config"),
        "max_surge_percent": RayField(
            "write rolling_update_percentage: new replicas always start beside the old ones, which serve until then"
        ),
        "max_concurrent_queries": RayField("write max_ongoing_requests"),
        "route_prefix": RayField("write it in the application"),
        "init_args": RayField("write args in the application, for a builder function"),
        "init_kwargs": RayField("write args in the application, for a builder function"),
        "is_driver_deployment": RayField("leave it out: start a worker on each host", accepted=(False,)),
    },
    "logging_config": {
        "encoding": RayField("start processes with --log-format text or json"),
        "log_level": RayField("start processes with --log-level"),
        "logs_dir": RayField("start workers with --data-dir, below which what replicas log is kept"),
        "enable_access_log": RayField("start gateways with --access-log"),
        "additional_log_standard_attrs": RayField("leave it out: JSON lines have all there is", accepted=([],)),
    },
    "backpressure_config": {
        "status_code": RayField("leave it out: a shed request is 503", accepted=(503,)),
        "retry_after_s": RayField("leave it out: it is computed from how fast the queue drains"),
    },
    "ray_actor_options": {
        "num_cpus": RayField(_NO_RESERVATION, accepted=(0,)),
        "num_gpus": RayField("set CUDA_VISIBLE_DEVICES under runtime_env.env_vars", accepted=(0,)),
        "memory": RayField(_NO_RESERVATION, accepted=(0,)),
        "object_store_memory": RayField(_NO_RESERVATION, accepted=(0,)),
        "resources": RayField(_NO_LABELS, accepted=({},)),
        "accelerator_type": RayField(_NO_LABELS, accepted=("",)),
        "label_selector": RayField(_NO_LABELS, accepted=({},)),
        "fallback_strategy": RayField(_NO_LABELS, accepted=([],)),
        "runtime_env": RayField("write it in the application", accepted=({},)),
    },
}
"""By level: the first six are those of `config_fields.LEVELS`, the others stand inside of fields."""

AUTO = "auto"
"""What Ray Serve takes for num_replicas, and mesh does not."""
AUTO_HINT = _FIXED.replace("write num_replicas", "write a number")


def refusals(field: RayField, value: object, path: str) -> Iterator[tuple[str, RayField | None]]:
    """Yield what of a field that is not ours has to be refused: its path, and what is known of it, if anything is.

    `path` is where the field stands in the file.
    """
    if value is None or any(value == allowed and type(value) is type(allowed) for allowed in _numbers(field.accepted)):
        return
    if not field.inner or not isinstance(value, dict):
        yield path, field
        return
    known = FIELDS[field.inner]
    for key, item in value.items():
        if key in known:
            yield from refusals(known[key], item, f"{path}.{key}")
        else:
            yield f"{path}.{key}", None


def dotted_import_path(text: str) -> str:
    """Return Ray Serve's form package.module.attribute as an import path of ours; "" if it is not of that form."""
    module, dot, attribute = text.rpartition(".")
    return f"{module}:{attribute}" if dot and module and attribute and ":" not in text and "/" not in text else ""


def _numbers(values: tuple[Any, ...]) -> Iterator[Any]:
    for value in values:
        yield value
        if isinstance(value, int) and not isinstance(value, bool):
            yield float(value)
