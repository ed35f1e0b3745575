"""Each role runs with the very command, user and environment that the files of deploy/ give it, as ordinary processes.

Only what a container or a cluster would give is put in its place: addresses of other hosts become ports of this one,
and the paths of the image are below a directory of the test.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from deploy.tests.image import Image, build
from deploy.tests.rendered import DEPLOY, Manifest, chart, overlay, pods
from tests.support.etcd import EtcdCluster, free_port
from tests.support.mesh_process import eventually

pytestmark = pytest.mark.timeout(300)

SIZE_MAX = 170 * 1024 * 1024
"""Bytes, with bytecode, pip, and uv, which alone has 37 MiB."""
EXAMPLE = DEPLOY.parent / "examples" / "hello"
CONFIG = f"""\
applications:
- name: hello
  route_prefix: /
  import_path: hello:app
  runtime_env: {{working_dir: "local://{EXAMPLE}"}}
"""


@dataclass
class Role:
    """One process as a file describes it."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    """None: whoever starts it."""


@dataclass
class Started:
    role: Role
    process: subprocess.Popen[str]
    admin: int
    ports: dict[str, int]
    said: list[str] = field(default_factory=list)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.role.name} ended: {''.join(self.said)}"
        try:
            return httpx.get(f"http://127.0.0.1:{self.admin}/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def etcd() -> Iterator[str]:
    with EtcdCluster() as cluster:
        yield cluster.endpoints[0]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    return path


def from_compose(image: Image) -> list[Role]:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return [
        Role(name, [*image.entrypoint, *service["command"]], dict(image.environment), image.user)
        for name, service in services.items()
        if not name.startswith("etcd")
    ]


def from_manifests(manifests: list[Manifest], image: Image) -> list[Role]:
    roles = []
    stores = [m["data"]["store"] for m in manifests if m["kind"] == "ConfigMap"]
    for name, template in pods(manifests).items():
        if name == "etcd":
            continue
        (container,) = template["spec"]["containers"]
        for number in range(2):
            given = {"status.podIP": "127.0.0.1", "metadata.name": f"{name}-{number}"}
            told = {
                each["name"]: given[source["fieldRef"]["fieldPath"]] if "fieldRef" in source else stores[0]
                for each in container.get("env", ())
                for source in [each["valueFrom"]]
            }
            args = [_expanded(arg, r"\$\((\w+)\)", told) for arg in container["args"]]
            user = template["spec"]["securityContext"]["runAsUser"]
            environment = {**image.environment, **told}
            roles.append(Role(f"{name}-{number}", [*image.entrypoint, *args], environment, user))
    return roles


def from_units(image: Image) -> list[Role]:
    settings = (DEPLOY / "systemd" / "mesh.conf").read_text()
    told = dict(line.split("=", 1) for line in settings.splitlines() if line and not line.startswith("#"))
    roles = []
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        unit = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and line[0] != "#")
        given = {**told, "CREDENTIALS_DIRECTORY": "/run/secrets"}
        words = _expanded(
            _expanded(unit["ExecStart"].replace("%H", "host-1"), r"\$\{(\w+)\}", given), r"\$(\w+)", given
        )
        state = f"/var/lib/{unit['StateDirectory']}"
        environment = {
            **told,
            "HOME": image.placed("/var/lib/mesh") + f"/{unit['StateDirectory']}",
            "PATH": "/usr/bin:/bin",
        }
        assert unit["Environment"] == f"HOME={state}"
        roles.append(Role(path.stem, shlex.split(image.placed(words)), environment))
    return roles


def _expanded(text: str, pattern: str, values: dict[str, str]) -> str:
    return re.sub(pattern, lambda found: values[found[1]], text)


SOURCES: dict[str, Callable[[Image], list[Role]]] = {
    "compose": from_compose,
    "kubernetes": lambda image: from_manifests(overlay("production"), image),
    "chart": lambda image: from_manifests(chart("--set=store=etcd://etcd:2379/mesh"), image),
    "systemd": from_units,
}


def test_the_image_is_small(image: Image) -> None:
    files = (path for path in (image.root / "opt/mesh").rglob("*") if path.is_file() and not path.is_symlink())
    assert sum(path.stat().st_size for path in files) < SIZE_MAX


def test_workers_of_the_image_install_with_uv(image: Image) -> None:
    found = image.root / "opt/mesh/bin/uv"
    assert subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30).stdout.startswith("uv ")


@pytest.mark.parametrize("source", SOURCES)
def test_roles_run_as_the_files_say(source: str, image: Image, etcd: str, token: Path) -> None:
    roles = SOURCES[source](image)
    assert {_kind(role) for role in roles} == {"controlplane", "gateway", "worker"}
    control = {role.name: free_port() for role in roles if _kind(role) == "controlplane"}
    store = f"etcd://{etcd}/{source}"
    with contextlib.ExitStack() as stack:
        started: dict[str, Started] = {}
        for kind in ("controlplane", "worker", "gateway"):
            for role in roles:
                if _kind(role) == kind:
                    started[role.name] = _start(role, image, control, store, token)
                    stack.callback(_kill, started[role.name])
            for each in started.values():
                eventually(each.is_ready, what=f"{each.role.name} is ready: {each.said}", timeout=60)
        _use(image, control, token, [each for each in started.values() if _kind(each.role) == "gateway"])
        for each in started.values():
            healthy = [part.replace("9901", str(each.admin)) for part in image.healthcheck]
            subprocess.run([image.placed("/opt/mesh/bin/") + healthy[0], *healthy[1:]], check=True, timeout=30)
            if each.role.user is not None and shutil.which("unshare"):
                inside = psutil.Process(each.process.pid)
                assert (Path("/proc") / str(inside.pid) / "uid_map").read_text().split()[0] == str(each.role.user)
        for each in reversed(started.values()):
            each.process.send_signal(signal.SIGTERM)
            assert each.process.wait(60) == 0, "".join(each.said)


def _kind(role: Role) -> str:
    return next(kind for kind in ("controlplane", "gateway", "worker") if kind in role.command)


def _start(role: Role, image: Image, control: dict[str, int], store: str, token: Path) -> Started:
    """Start a role, with this machine's addresses where others stand."""
    every = ",".join(f"127.0.0.1:{port}" for port in control.values())
    admin, ports = free_port(), {}
    command = []
    for word in role.command:
        flag, equals, _ = word.partition("=")
        if flag in ("--host", "--admin-host") and equals:
            word = f"{flag}=127.0.0.1"
        elif flag == "--store" and equals:
            word = f"--store={store}"
        elif flag == "--control":
            word = f"--control={every}"
        elif flag == "--advertise":
            word = f"--advertise=127.0.0.1:{control[role.name]}"
        elif flag == "--drain-delay":
            word = "--drain-delay=0"
        word = re.sub(r"^etcd://.*", store, word)
        command.append(re.sub(r"/run/secrets/token|/etc/mesh/token/token", str(token), word))
    command += [f"--admin-port={admin}"]
    if _kind(role) == "controlplane":
        command += [f"--port={control[role.name]}"]
    if _kind(role) == "gateway":
        ports = {"http": free_port(), "grpc": free_port()}
        command += [f"--port={ports['http']}", f"--grpc-port={ports['grpc']}"]
    if (tini := shutil.which("tini")) is None and command[:2] == ["/usr/bin/tini", "--"]:
        command = command[2:]
    elif command[0] == "/usr/bin/tini":
        command[0] = str(tini)
    environment = dict(role.environment)
    if "MESH_ADDRESS" in environment:
        environment["MESH_ADDRESS"] = every
    home = Path(environment["HOME"]) / role.name
    home.mkdir(parents=True, exist_ok=True)
    environment["HOME"] = str(home)
    if role.user is not None and (unshare := shutil.which("unshare")):
        # As that user, without its rights on this machine being needed.
        command = [unshare, "--user", f"--map-user={role.user}", f"--map-group={role.user}", "--", *command]
    process = subprocess.Popen(
        command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    started = Started(role, process, admin, ports)
    assert process.stdout is not None
    threading.Thread(target=lambda: started.said.extend(process.stdout or ()), daemon=True).start()
    return started


def _use(image: Image, control: dict[str, int], token: Path, gateways: list[Started]) -> None:
    """Deploy as an operator would, and ask every gateway; without the token nothing is told."""
    config = token.with_name("mesh.yaml")
    config.write_text(CONFIG)
    meshctl = [image.placed("/opt/mesh/bin/meshctl")]
    address = "--address=" + ",".join(f"127.0.0.1:{port}" for port in control.values())
    command = [*meshctl, "deploy", str(config), address, f"--token-file={token}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    for gateway in gateways:
        answer = httpx.get(f"http://127.0.0.1:{gateway.ports['http']}/?name=Ada", trust_env=False, timeout=10)
        assert (answer.status_code, answer.json()) == (200, {"message": "Hello, Ada!"})
    done = subprocess.run([*meshctl, "status", address], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "token" in done.stderr


def _kill(started: Started) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(started.process.pid).children(recursive=True):
            child.kill()
    started.process.kill()
    started.process.wait(30)
