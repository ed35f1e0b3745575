"""A mesh of separate processes with a token and certificates: who has both is served, who has not is told so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.v1 import replica_service_pb2
from mesh.v1.replica_service_pb2_grpc import ReplicaServiceStub
from tests.e2e.cluster import get, served
from tests.support.certificates import Authority
from tests.support.mesh_process import MeshProcess, Result, eventually, meshctl

FIRST, SECOND, VALUE = "first-token-of-this-mesh", "second-token-of-this-mesh", "the-value-of-a-variable"
CODE = """\
import os

import mesh


@mesh.deployment
def hello(request):
    return {"pid": os.getpid(), "told": sorted(name for name in os.environ if name.startswith(("MESH_TO", "MESH_TL")))}


app = hello.bind()
"""
CONFIG = """\
applications:
- name: default
  import_path: secured:app
  runtime_env: {working_dir: code, env_vars: {SECRET: %s}}
  deployments:
  - {name: hello, num_replicas: %d}
"""
CALL_S = 15.0


@dataclass
class Secured:
    """The processes and their files."""

    directory: Path
    token: Path
    tls: dict[str, str]
    control: MeshProcess
    worker: MeshProcess
    gateway: MeshProcess

    @property
    def processes(self) -> tuple[MeshProcess, ...]:
        return self.control, self.worker, self.gateway

    def meshctl(self, *args: str, token: Path | None = None, tls: Mapping[str, str] | None = None) -> Result:
        """Run a command with just these credentials."""
        env = {"MESH_ADDRESS": self.control.control, **(self.tls if tls is None else tls)}
        return meshctl(*args, cwd=self.directory, env={**env, **({"MESH_TOKEN_FILE": str(token)} if token else {})})

    def deploy(self, replicas: int) -> None:
        path = self.directory / "mesh.yaml"
        path.write_text(CONFIG % (VALUE, replicas))
        done = self.meshctl("deploy", str(path), token=self.token)
        assert done.code == 0, done.stderr

    def replicas(self) -> list[str]:
        """Return the addresses of the ready replicas."""
        done = self.meshctl("status", "-o", "json", token=self.token)
        assert done.code == 0, done.stderr
        deployment = done.json()["applications"][0]["deployments"][0]
        return [each["status"]["address"] for each in deployment["replicas"] if each["status"]["state"] == "READY"]


def written(path: Path, *tokens: str) -> Path:
    """Write a token file as secrets are renewed: a new one takes the old one's place."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text("\n".join(tokens) + "\n")
    fresh.chmod(0o600)
    os.replace(fresh, path)
    return path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    (directory / "code").mkdir()
    (directory / "code" / "secured.py").write_text(CODE)
    authority = Authority.create(directory / "ca")
    cert, key = authority.issue("node", "IP:127.0.0.1")
    tls = {"MESH_TLS_CERT": str(cert), "MESH_TLS_KEY": str(key), "MESH_TLS_CA": str(authority.cert)}
    token = written(directory / "token", FIRST)
    # Some by flags, some by the environment; a path that is not absolute holds in replicas too.
    flags = ("--token-file", "token", "--log-level", "DEBUG", "--admin-port", "0")
    store = f"sqlite:///{directory / 'mesh.db'}"
    with MeshProcess("controlplane", "--store", store, "--port", "0", *flags, cwd=directory, env=tls) as control:
        env = {**tls, "MESH_ADDRESS": control.control}
        ports = ("--port", "0", "--grpc-port", "0")
        with (
            MeshProcess("worker", "--id", "w1", *flags, cwd=directory, env=env) as worker,
            MeshProcess("gateway", *ports, *flags, cwd=directory, env=env) as gateway,
        ):
            mesh = Secured(directory, token, tls, control, worker, gateway)
            mesh.deploy(1)
            yield mesh


@pytest.mark.long
def test_who_has_token_and_certificate_is_served(secured: Secured) -> None:
    answer = served(secured.gateway.http).json()
    assert answer["told"] == []  # user code is not told where the credentials are
    assert secured.meshctl("status", token=secured.token).code == 0


@pytest.mark.long
def test_commands_without_them_are_told_what_is_missing(secured: Secured, tmp_path: Path) -> None:
    wrong = written(tmp_path / "wrong", "the-token-of-another-mesh")
    for token in (None, wrong):
        done = secured.meshctl("status", token=token)
        assert (done.code, done.stdout) == (1, "")
        assert "does not take calls from here" in done.stderr
        assert "--token-file or MESH_TOKEN_FILE" in done.stderr
        assert "the-token" not in done.stderr
    done = secured.meshctl("status", token=secured.token, tls={})
    assert done.code == 5
    assert "listens, but it ended the connection at once" in done.stderr
    assert "--tls-cert" in done.stderr


@pytest.mark.long
def test_files_that_cannot_be_used_end_a_command_with_2(secured: Secured, tmp_path: Path) -> None:
    done = secured.meshctl("status", token=tmp_path / "none")
    assert (done.code, "No such file" in done.stderr) == (2, True), done.stderr
    partly = {name: path for name, path in secured.tls.items() if name != "MESH_TLS_CA"}
    done = secured.meshctl("status", tls=partly)
    assert (done.code, "--tls-ca not given" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("controlplane", "--store", "sqlite:///:memory:", "--port", "0", "--host", "0.0.0.0"),
        ("worker", "--host", "0.0.0.0"),
        ("start", "--control-host", "0.0.0.0", "--port", "0", "--grpc-port", "0", "--control-port", "0"),
    ],
)
def test_beyond_loopback_nothing_that_takes_code_listens_without(command: tuple[str, ...], tmp_path: Path) -> None:
    done = meshctl(*command, "--admin-port", "0", cwd=tmp_path, env={"XDG_STATE_HOME": str(tmp_path)})
    assert done.code == 2, done.stderr
    for flag in ("--token-file", "--tls-cert", "--insecure"):
        assert flag in done.stderr


@pytest.mark.long
def test_a_replica_answers_nobody_else(secured: Secured) -> None:
    address = secured.replicas()[0]
    cert, key, ca = (Path(secured.tls[f"MESH_TLS_{name}"]).read_bytes() for name in ("CERT", "KEY", "CA"))
    with grpc.insecure_channel(address) as stranger:
        assert _codes(stranger) == {grpc.StatusCode.UNAVAILABLE}
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as stranger:
        assert _codes(stranger) == {grpc.StatusCode.UNAVAILABLE}
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert)) as peer:
        assert _codes(peer) == {grpc.StatusCode.UNAUTHENTICATED}
        answer = health_pb2_grpc.HealthStub(peer).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert get(secured.gateway.http).status_code == 200


def _codes(channel: grpc.Channel) -> set[grpc.StatusCode]:
    """Return how calls of each kind of a replica end."""
    stub = ReplicaServiceStub(channel)
    found = set()
    calls: list[Any] = [
        lambda: stub.Configure(replica_service_pb2.ConfigureRequest(), timeout=CALL_S),
        lambda: stub.CheckHealth(replica_service_pb2.CheckHealthRequest(), timeout=CALL_S),
        lambda: next(stub.Pipe(iter([replica_service_pb2.PipeRequest()]), timeout=CALL_S)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as raised:
            call()
        found.add(raised.value.code())
    return found


@pytest.mark.long
@pytest.mark.parametrize("role", ["worker", "gateway"])
def test_a_process_with_another_token_goes_on_trying(secured: Secured, role: str, tmp_path: Path) -> None:
    token = written(tmp_path / "token", "the-token-of-another-mesh")
    env = {**secured.tls, "MESH_ADDRESS": secured.control.control, "MESH_TOKEN_FILE": str(token)}
    ports = ("--port", "0", "--grpc-port", "0") if role == "gateway" else ("--id", "w2")
    with MeshProcess(role, *ports, "--admin-port", "0", cwd=secured.directory, env=env) as process:
        line = process.wait_line("stderr", lambda line: "with its token only" in line)
        assert "--token-file" in line
        assert get(f"{process.admin}/readyz").status_code == 503
        written(token, FIRST)
        eventually(lambda: get(f"{process.admin}/readyz").status_code == 200, what="it is taken", timeout=30)
        assert "the-token" not in process.stderr


@pytest.mark.long
def test_the_token_changes_while_all_runs(secured: Secured) -> None:
    old = written(secured.directory / "old", FIRST)
    before = secured.replicas()
    for tokens in ((FIRST, SECOND), (SECOND, FIRST), (SECOND,)):
        written(secured.token, *tokens)
        assert get(secured.gateway.http).status_code == 200
    assert secured.meshctl("status", token=old).code == 1
    secured.deploy(2)  # one more: its worker configures and checks it, its gateway opens a pipe
    pids = eventually(lambda: _pids(secured), what="both replicas answer", timeout=30)
    assert len(pids) == 2
    assert set(before) < set(secured.replicas())
    written(secured.token, FIRST)


def _pids(secured: Secured) -> set[int] | None:
    found = {get(secured.gateway.http).json()["pid"] for _ in range(20)}
    return found if len(found) == 2 else None


@pytest.mark.long
def test_no_log_argument_or_environment_has_the_secrets(secured: Secured) -> None:
    for process in secured.processes:
        for secret in (FIRST, SECOND, VALUE):
            assert secret not in process.stdout + process.stderr
        for each in (psutil.Process(process.pid), *process.children()):
            shown = " ".join([*each.cmdline(), *each.environ().values()])
            assert FIRST not in shown
            assert SECOND not in shown
    for file in secured.directory.glob("mesh.db*"):
        assert file.stat().st_mode & 0o077 == 0, file
