"""Every field of the config file, by the level at which it stands, with a line that says what it is.

Owns names and descriptions once, for the reader, the JSON Schema and the comments that `build` writes; ranges are
those of `serving.options`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

ROOT: Mapping[str, str] = {
    "http_options": "The HTTP listener. Host and port count for run and start; a gateway has flags.",
    "grpc_options": "The gRPC listener.",
    "applications": "All that is to run: what is not listed is deleted.",
}
HTTP: Mapping[str, str] = {
    "host": "Address for HTTP and gRPC.",
    "port": "Port for HTTP; 0: a free one.",
    "request_timeout_s": "Seconds a request may take, waiting included, where nobody says less.",
    "cors": "Which pages of other origins may call applications from a browser.",
}
CORS: Mapping[str, str] = {
    "allow_origins": "'*', or scheme://host[:port] as browsers write it; [] stands for none.",
    "allow_headers": "Request headers that such pages may set, beside those always allowed.",
    "max_age_s": "Seconds for which a browser may keep the answer to a preflight request.",
    "allow_credentials": "Whether cookies and the like may come along.",
}
GRPC: Mapping[str, str] = {
    "port": "Port for gRPC; 0: a free one.",
}
APPLICATION: Mapping[str, str] = {
    "name": "Name of the application.",
    "route_prefix": "Path under which it is served over HTTP; null: not at all.",
    "import_path": "Bound application or builder function, as module:attribute.",
    "runtime_env": "What surrounds the code. A change makes new replicas.",
    "args": "Arguments for a builder function.",
    "deployments": "Options of deployments; each wins over what the code sets.",
    "code_version": "Mark of the code behind import_path; a new one makes new replicas.",
}
RUNTIME_ENV: Mapping[str, str] = {
    "working_dir": "Place of the directory to import from; the working directory too.",
    "py_modules": "Places of further directories or wheels on the import path.",
    "pip": "Requirements, or the path of a requirements file.",
    "env_vars": "Environment variables: text, {from_env: NAME} or {from_file: /PATH} on the worker.",
}
REFERENCE: Mapping[str, str] = {
    "from_env": "Variable of the worker's own environment that has the value.",
    "from_file": "File on the worker that has the value; a final newline is dropped.",
}
DEPLOYMENT: Mapping[str, str] = {
    "name": "Name of the deployment, as in the code.",
    "num_replicas": "Replicas, each a process.",
    "max_ongoing_requests": "Requests that one replica runs at a time.",
    "max_queued_requests": "Requests that wait per gateway or handle; -1: unlimited, 0: none.",
    "user_config": "Value for reconfigure(), given to running replicas without a restart.",
    "json": "How REST routes write JSON.",
    "request_timeout_s": "Seconds a request may take, waiting included.",
    "graceful_shutdown_timeout_s": "Seconds for running requests when a replica stops.",
    "health_check_period_s": "Seconds between health checks.",
    "health_check_timeout_s": "Seconds that one health check may take.",
    "health_check_failure_threshold": "Failed checks in a row after which a replica is replaced.",
    "startup_timeout_s": "Seconds until a new replica has to be ready.",
    "rolling_update_percentage": "Share of the replicas that a rollout starts at a time; at least one.",
}
JSON: Mapping[str, str] = {
    "emit_defaults": "Write fields without presence also when they are zero or empty.",
    "proto_names": "Write the names of the .proto file, not their lowerCamelCase.",
    "enums_as_numbers": "Write numbers of enum values, not names.",
}
LEVELS: Mapping[str, Mapping[str, str]] = {
    "": ROOT,
    "http_options": HTTP,
    "grpc_options": GRPC,
    "applications": APPLICATION,
    "runtime_env": RUNTIME_ENV,
    "deployments": DEPLOYMENT,
}
"""The levels at which files of Ray Serve have fields too, under the names that they have there."""
