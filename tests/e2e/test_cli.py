"""meshctl from end to end: real processes, real ports, exit codes and what people are told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.mesh_process import (
    EXAMPLES,
    FREE_PORTS,
    MeshProcess,
    Result,
    command,
    environment,
    eventually,
    meshctl,
)

Write = Callable[[str, str], Path]

ECHO = """\
import mesh

@mesh.deployment
class Echo:
    def __init__(self):
        self.answer = {answer!r}

    async def __call__(self, request):
        return self.answer

app = Echo.bind()
"""
CONFIG = """\
applications:
- name: echo
  route_prefix: /echo
  import_path: echo:app
"""


def get(url: str) -> httpx.Response:
    """GET past any proxy of the environment."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        return client.get(url)


def assert_failed(result: Result, code: int, *parts: str) -> None:
    """The exit code, nothing on stdout, a message with all `parts`, no traceback but an indented one of user code."""
    assert result.code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("error: ") >= 1
    assert re.search(r"^(Traceback|  File )", result.stderr, re.MULTILINE) is None
    for part in parts:
        assert part in result.stderr


def pids(mesh: MeshProcess) -> dict[str, int]:
    """Process ids of all replicas by replica id."""
    found = mesh.meshctl("status", "-o", "json").json()
    return {
        replica["status"]["replica_id"]: replica["status"]["pid"]
        for application in found["applications"]
        for deployment in application["deployments"]
        for replica in deployment["replicas"]
    }


@pytest.fixture
def echo(mesh: MeshProcess, write: Write) -> Path:
    """A config file whose application is deployed and answers."""
    write("echo.py", ECHO.format(answer="first"))
    path = write("mesh.yaml", CONFIG)
    done = mesh.meshctl("deploy", str(path))
    assert done.code == 0, done.stderr
    eventually(lambda: get(f"{mesh.http}/echo").text == "first", what="the application answers")
    return path


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# Help


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mesh.cli", "--help"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0
    assert "deploy" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert loaded.isdisjoint({"grpc", "google", "yaml", "rich", "granian", "starlette", "prometheus_client", "asyncio"})


# run


def test_run_serves_and_ends_clean_on_interrupt() -> None:
    with MeshProcess("run", "slow:app", *FREE_PORTS, cwd=EXAMPLES) as process:
        assert process.addresses.ready == ("default",)
        response = get(f"{process.http}/")
        assert (response.status_code, response.text) == (200, "Hello!")
        assert get(f"{process.admin}/readyz").status_code == 200
        status = process.meshctl("status", "default", "-o", "json").json()
        assert status["applications"][0]["state"] == "RUNNING"
        process.interrupt()
        assert process.wait() == 0


def test_whoever_connects_while_run_comes_up_is_answered_by_the_application(write: Write, tmp_path: Path) -> None:
    write("echo.py", ECHO.format(answer="up"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ports = ("--port", str(port), "--grpc-port", "0", "--control-port", "0", "--admin-port", "0")
    process = MeshProcess("run", "echo:app", *ports, cwd=tmp_path)
    try:
        answer = eventually(lambda: _if_connected(f"http://127.0.0.1:{port}/"), what="somebody listens", timeout=40)
        assert (answer.status_code, answer.text) == (200, "up")
        process.interrupt()
        assert process.wait() == 0
    finally:
        process.kill()


def _if_connected(url: str) -> httpx.Response | None:
    with contextlib.suppress(httpx.ConnectError):
        return get(url)
    return None


def test_second_interrupt_ends_at_once_with_130() -> None:
    with MeshProcess("run", "slow:app", *FREE_PORTS, cwd=EXAMPLES) as process:
        request = threading.Thread(target=_ignoring_errors, args=(f"{process.http}/",))
        request.start()
        metric = 'mesh_requests_in_flight{application="default",deployment="SlowDeployment"} 1.0'
        eventually(lambda: metric in get(f"{process.admin}/metrics").text, what="the request runs")
        process.interrupt()
        eventually(lambda: get(f"{process.admin}/readyz").status_code == 503, what="it drains")
        process.interrupt()
        assert process.wait() == 130
        request.join(20)


def _ignoring_errors(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        get(url)


def test_an_interrupt_before_it_is_ready_ends_it(write: Write, tmp_path: Path) -> None:
    write("stuck.py", ECHO.format(answer="").replace("self.answer", "import time; time.sleep(3600); self.answer", 1))
    process = MeshProcess("run", "stuck:app", *FREE_PORTS, cwd=tmp_path)
    try:
        process.wait_line("stderr", lambda line: "are starting" in line)
        process.interrupt()
        assert process.wait() == 0
        process.assert_gone()
    finally:
        process.kill()
    assert process.stdout == ""


def test_kill_of_the_parent_leaves_nothing() -> None:
    with MeshProcess("run", "slow:app", *FREE_PORTS, cwd=EXAMPLES) as process:
        assert process.children()
        process.kill_parent()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.long
def test_run_of_a_config_file() -> None:
    with MeshProcess("run", "hello/mesh.yaml", *FREE_PORTS, cwd=EXAMPLES) as process:
        assert process.addresses.ready == ("hello", "hallo")
        assert get(f"{process.http}/?name=Ada").json() == {"message": "Hello, Ada!"}
        assert get(f"{process.http}/de?name=Ada").json() == {"message": "Hallo, Ada!"}


@pytest.mark.long
def test_run_with_arguments_name_and_route() -> None:
    flags = ("--name", "greeter", "--route-prefix", "/hi", "--working-dir", str(EXAMPLES / "hello"))
    with MeshProcess("run", "hello:build", "greeting=Hi", *flags, *FREE_PORTS) as process:
        assert process.addresses.ready == ("greeter",)
        assert get(f"{process.http}/hi").json() == {"message": "Hi, world!"}


def test_ready_lines_for_people(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("start", "--data-dir", str(tmp_path), *FREE_PORTS),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            lines = [process.stdout.readline() for _ in range(5)]
        finally:
            process.send_signal(signal.SIGINT)
            log = process.stderr.read() if process.stderr is not None else ""
            process.wait(30)
    assert "draining; press Ctrl-C again to end at once" in log
    assert "WARNING" not in log and "ERROR" not in log, "a clean end is nothing to worry about"
    assert lines[0] == "mesh is ready: control plane, worker, gateway\n"
    assert [line.split()[0] for line in lines[1:]] == ["HTTP", "gRPC", "control", "admin"]
    assert process.returncode == 0


@pytest.mark.long
def test_options_of_the_config_file_hold_unless_a_flag_says_otherwise(write: Write, taken_port: int) -> None:
    write("echo.py", ECHO.format(answer="x"))
    path = write("mesh.yaml", f"http_options: {{port: {taken_port}}}\ngrpc_options: {{port: 0}}\n{CONFIG}")
    free = ("--control-port", "0", "--admin-port", "0")
    assert_failed(meshctl("run", str(path), *free), 4, f"127.0.0.1:{taken_port}")
    with MeshProcess("run", str(path), "--port", "0", *free) as process:
        assert get(f"{process.http}/echo").text == "x"


@pytest.mark.long
def test_reload_takes_new_code_and_keeps_the_old_when_it_fails(write: Write, tmp_path: Path) -> None:
    path = write("echo.py", ECHO.format(answer="first"))
    with MeshProcess("run", "echo:app", "--reload", *FREE_PORTS, cwd=tmp_path) as process:
        assert get(process.http).text == "first"
        path.write_text(ECHO.format(answer="second"))
        eventually(lambda: get(process.http).text == "second", what="the new code answers", timeout=30)
        path.write_text("raise RuntimeError('broken on purpose')")
        process.wait_line("stderr", lambda line: "broken on purpose" in line)
        process.wait_line("stderr", lambda line: "serves on" in line)
        assert get(process.http).text == "second"
        path.write_text(ECHO.format(answer="third"))
        eventually(lambda: get(process.http).text == "third", what="the mended code answers", timeout=30)


@pytest.mark.long
def test_start_keeps_what_was_deployed(write: Write, tmp_path: Path) -> None:
    write("echo.py", ECHO.format(answer="kept"))
    path = write("mesh.yaml", CONFIG)
    args = ("start", "--data-dir", str(tmp_path / "data"), *FREE_PORTS)
    with MeshProcess(*args, "--config", str(path)) as process:
        assert process.addresses.ready == ("echo",)
        assert get(f"{process.http}/echo").text == "kept"
        process.kill_parent()
        process.wait()
    with MeshProcess(*args) as process:
        eventually(lambda: get(f"{process.http}/echo").text == "kept", what="it is served again")


# Roles in processes of their own


@pytest.mark.long
def test_roles_as_processes(write: Write, tmp_path: Path) -> None:
    write("echo.py", ECHO.format(answer="from far"))
    path = write("mesh.yaml", CONFIG)
    store = f"sqlite:///{tmp_path / 'mesh.db'}"
    admin = ("--admin-port", "0")
    with (
        MeshProcess("controlplane", "--store", store, "--port", "0", *admin) as control,
        MeshProcess("worker", "--control", control.control, "--id", "w1", "--data-dir", str(tmp_path / "data"), *admin),
        MeshProcess("gateway", "--control", control.control, "--port", "0", "--grpc-port", "0", *admin) as gateway,
    ):
        assert control.meshctl("deploy", str(path)).code == 0
        eventually(lambda: get(f"{gateway.http}/echo").text == "from far", what="the gateway has the route")
        (worker,) = control.meshctl("workers", "-o", "json").json()["workers"]
        assert (worker["worker_id"], worker["state"], worker["replicas"]) == ("w1", "READY", 1)
        assert "w1" in control.meshctl("workers").stdout
        assert control.meshctl("status").stdout.splitlines()[-1].startswith("1 worker, 1 gateway, control plane 127.")


# deploy, status, config, delete, shutdown


def test_deploy_says_what_it_did(mesh: MeshProcess, write: Write) -> None:
    write("echo.py", ECHO.format(answer="first"))
    path = write("mesh.yaml", CONFIG)
    first = mesh.meshctl("deploy", str(path), "-o", "json")
    (item,) = first.json()["applications"]
    assert (item["name"], item["change"], item["state"]) == ("echo", "CREATED", "RUNNING")
    assert item["revision"] >= 1
    assert "echo: revision" in first.stderr
    again = mesh.meshctl("deploy", str(path))
    assert again.stdout.splitlines()[1].split()[0::2] == ["echo", "UNCHANGED"]


@pytest.mark.long
def test_same_file_twice_restarts_nothing(mesh: MeshProcess, echo: Path) -> None:
    before = pids(mesh)
    assert mesh.meshctl("deploy", str(echo)).code == 0
    assert pids(mesh) == before


def test_status_as_table_json_and_yaml(mesh: MeshProcess, echo: Path) -> None:
    table = mesh.meshctl("status")
    assert table.stdout.splitlines()[1].split()[:2] == ["echo", "RUNNING"]
    detailed = mesh.meshctl("status", "echo").stdout
    assert str(next(iter(pids(mesh).values()))) in detailed
    as_json: dict[str, Any] = mesh.meshctl("status", "-o", "json").json()
    as_yaml: dict[str, Any] = yaml.safe_load(mesh.meshctl("status", "-o", "yaml").stdout)
    assert [a["name"] for a in as_json["applications"]] == ["echo"]
    assert as_json["applications"][0]["deployments"] == as_yaml["applications"][0]["deployments"]


@pytest.mark.long
def test_events_and_descriptions(mesh: MeshProcess, echo: Path) -> None:
    told: list[dict[str, Any]] = mesh.meshctl("events", "echo", "--since", "10m", "-o", "json").json()["events"]
    kinds = [event["reason"] for event in told]
    assert kinds[-1] == "SERVING" and {"APPLIED", "BUILT", "PLACED", "READY"} <= set(kinds)
    assert "SERVING" in mesh.meshctl("events").stdout
    described = mesh.meshctl("describe", "echo").stdout
    assert "State:        RUNNING\n" in described and "Last events:" in described
    (replica_id,) = pids(mesh)
    assert f"Replica:      {replica_id}" in mesh.meshctl("describe", "replica", replica_id).stdout
    worker: dict[str, Any] = mesh.meshctl("describe", "worker", "local", "-o", "json").json()
    assert worker["worker"]["reason"] == "READY" and worker["worker"]["last_events"]
    (application,) = mesh.meshctl("status", "echo", "-o", "json").json()["applications"]
    assert application["reason"] == "READY" and len(application["last_events"]) == 5


@pytest.mark.long
def test_status_watch_writes_each_change(mesh: MeshProcess, echo: Path) -> None:
    with subprocess.Popen(
        command("status", "--watch", "-o", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment({"MESH_ADDRESS": mesh.control}),
    ) as watching:
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["applications"][0]["state"] == "RUNNING"
            assert mesh.meshctl("delete", "echo").code == 0
            for line in watching.stdout:
                if not json.loads(line)["applications"]:
                    break
        finally:
            watching.send_signal(signal.SIGINT)
            watching.wait(30)
    assert watching.returncode == 130


@pytest.mark.long
def test_config_gives_back_what_deploy_takes(mesh: MeshProcess, write: Write) -> None:
    reconfigurable = "    def reconfigure(self, user_config): pass\n\n    async def"
    write("echo.py", ECHO.format(answer="first").replace("    async def", reconfigurable))
    path = write(
        "mesh.yaml",
        "http_options: {request_timeout_s: 12.5}\n"
        + CONFIG
        + "  runtime_env: {env_vars: {COUNTRY: no, N: '1'}}\n"
        + "  deployments:\n  - {name: Echo, max_queued_requests: -1, user_config: {on: [1, 2.5, null, true, é]}}\n",
    )
    assert mesh.meshctl("deploy", str(path)).code == 0
    before = pids(mesh)
    returned = mesh.meshctl("config")
    data = yaml.safe_load(returned.stdout)
    assert data["http_options"] == {"request_timeout_s": 12.5}
    (application,) = data["applications"]
    assert application["runtime_env"]["working_dir"].startswith("package:sha256:")
    assert application["runtime_env"]["env_vars"] == {"COUNTRY": "no", "N": "1"}
    assert application["deployments"] == [
        {"name": "Echo", "max_queued_requests": -1, "user_config": {"on": [1, 2.5, None, True, "é"]}}
    ]
    write("echo.py", "")  # it is deployed from what was uploaded
    again = write("again.yaml", returned.stdout)
    done = mesh.meshctl("deploy", str(again), "-o", "json")
    assert done.json()["applications"][0]["change"] == "UNCHANGED"
    assert pids(mesh) == before
    assert mesh.meshctl("config").stdout == returned.stdout
    assert mesh.meshctl("config", "echo", "-o", "json").json()["applications"] == data["applications"]


@pytest.mark.long
def test_changed_code_is_deployed_and_its_directory_is_needed_no_more(
    mesh: MeshProcess, echo: Path, write: Write
) -> None:
    before = pids(mesh)
    write(".meshignore", "notes.txt\n")
    write("notes.txt", "no code")
    same = mesh.meshctl("deploy", str(echo), "-o", "json")
    assert same.json()["applications"][0]["change"] == "UNCHANGED" and "uploading" not in same.stderr
    write("echo.py", ECHO.format(answer="second"))
    assert mesh.meshctl("diff", str(echo)).code == 1
    changed = mesh.meshctl("deploy", str(echo))
    assert "uploading working_dir of application 'echo': " in changed.stderr
    assert get(f"{mesh.http}/echo").text == "second"
    eventually(lambda: not set(pids(mesh)) & set(before), what="the old replica is gone")
    write("echo.py", "raise RuntimeError('only here')\n")
    scaled = write("scaled.yaml", mesh.meshctl("config").stdout + "  deployments: [{name: Echo, num_replicas: 2}]\n")
    assert mesh.meshctl("deploy", str(scaled)).code == 0
    assert len(pids(mesh)) == 2


def test_deploy_from_stdin(mesh: MeshProcess, echo: Path) -> None:
    config = mesh.meshctl("config").stdout
    done = meshctl("deploy", "-", "-o", "json", env={"MESH_ADDRESS": mesh.control}, stdin=config)
    assert done.json()["applications"][0]["change"] == "UNCHANGED"


def test_an_application_that_the_file_does_not_name_is_deleted(mesh: MeshProcess, echo: Path) -> None:
    two = echo.read_text() + "- {name: two, route_prefix: /two, import_path: 'echo:app'}\n"
    echo.write_text(two)
    assert mesh.meshctl("deploy", str(echo)).code == 0
    assert len(pids(mesh)) == 2
    echo.write_text(CONFIG)
    done = mesh.meshctl("deploy", str(echo), "-o", "json")
    changes = {item["name"]: (item["change"], item["state"]) for item in done.json()["applications"]}
    assert changes == {"echo": ("UNCHANGED", "RUNNING"), "two": ("DELETED", "GONE")}
    assert len(pids(mesh)) == 1


def test_delete_waits_until_it_is_gone(mesh: MeshProcess, echo: Path) -> None:
    done = mesh.meshctl("delete", "echo", "-o", "json")
    assert done.json() == {"applications": [{"name": "echo", "change": "DELETED", "state": "GONE"}]}
    assert "echo: deleted" in done.stderr
    assert_failed(mesh.meshctl("status", "echo"), 3, "echo")
    eventually(lambda: get(f"{mesh.http}/echo").status_code == 404, what="the route is gone")


@pytest.mark.long
def test_shutdown_asks_first(mesh: MeshProcess, echo: Path) -> None:
    refused = mesh.meshctl("shutdown")
    assert refused.code == 2
    assert "-y" in refused.stderr
    assert len(pids(mesh)) == 1
    done = mesh.meshctl("shutdown", "-y", "-o", "json")
    assert done.json() == {"applications": [{"name": "echo", "change": "DELETED", "state": "GONE"}]}
    assert mesh.meshctl("config").stdout == "applications: []\n"


def test_no_wait_returns_at_once_and_a_time_limit_is_exit_code_6(mesh: MeshProcess, write: Write) -> None:
    write("stuck.py", ECHO.format(answer="").replace("self.answer", "import time; time.sleep(3600); self.answer", 1))
    path = write("mesh.yaml", CONFIG.replace("echo:app", "stuck:app"))
    done = mesh.meshctl("deploy", str(path), "--no-wait", "-o", "json")
    assert done.code == 0
    assert done.json()["applications"][0]["state"] == ""
    assert_failed(mesh.meshctl("deploy", str(path), "--timeout", "0.5"), 6, "echo (DEPLOYING)", "fix: ")


# Bad input


BAD_CONFIGS = [
    ("applications: [", "mesh.yaml:2:1: is not YAML"),
    (
        CONFIG + "  nmae: x\n",
        "mesh.yaml:5:3: applications[0].nmae: unknown key 'nmae'\n  fix: did you mean 'name'?",
    ),
    (
        CONFIG + "  deployments: [{name: Echo, num_replicas: two}]\n",
        "mesh.yaml:5:44: applications[0].deployments[0].num_replicas: must be a whole number, not 'two'",
    ),
    (
        CONFIG + "- {name: echo, import_path: 'x:y'}\n",
        "mesh.yaml:5:10: applications[1].name: name 'echo' stands twice",
    ),
    (
        CONFIG + "- {name: b, route_prefix: /echo, import_path: 'x:y'}\n",
        "mesh.yaml:5:27: applications[1].route_prefix: route_prefix '/echo' stands twice",
    ),
    (CONFIG.replace("echo:app", "echo"), "mesh.yaml:4:16: applications[0].import_path: must look like"),
]


@pytest.mark.long
def test_a_bad_config_changes_nothing(mesh: MeshProcess, echo: Path) -> None:
    before = pids(mesh)
    for text, message in BAD_CONFIGS:
        echo.write_text(text)
        assert_failed(mesh.meshctl("deploy", "mesh.yaml", cwd=echo.parent), 2, f"error: {message}")
    assert_failed(mesh.meshctl("validate", "mesh.yaml", cwd=echo.parent), 2, f"error: {message}")
    assert_failed(mesh.meshctl("run", "mesh.yaml", *FREE_PORTS, cwd=echo.parent), 2, f"error: {message}")
    assert pids(mesh) == before
    assert get(f"{mesh.http}/echo").text == "first"


CTOR = ECHO.format(answer="x").replace("self.answer =", "1 / 0  #")
BUILDER = ECHO.format(answer="x").replace("app = Echo.bind()", "def app(): return Echo.bind()")
BAD_APPLICATIONS = [
    (
        "import_path: nowhere:app",
        "",
        "applications[0].import_path: there is no module 'nowhere' in working_dir\n  fix: did you mean 'nowhere_near'?",
    ),
    (
        "import_path: bad1:apps",
        ECHO.format(answer="x"),
        "applications[1].import_path: module 'bad1' has no attribute 'apps', which 'bad1:apps' names\n"
        "  fix: did you mean 'app'?",
    ),
    (
        "import_path: bad2:app",
        "raise RuntimeError('at import')\n",
        "applications[2].import_path: RuntimeError: at import (bad2.py:1)\n  fix: mend the code",
    ),
    (
        "import_path: bad3:app",
        "def (:\n",
        "applications[3].import_path: SyntaxError: invalid syntax (bad3.py:1)\n  fix: mend the code",
    ),
    (
        "import_path: bad4:app",
        "app = 5\n",
        "applications[4].import_path: 'bad4:app' is a value of type 'int', not an application\n  fix: name a bound",
    ),
    (
        "import_path: bad5:app",
        CTOR,
        "applications[5].import_path: deployment 'Echo' failed to start 3 times: "
        "ZeroDivisionError: division by zero (bad5.py:6)\n  fix: mend the code",
    ),
    (
        "import_path: bad6:app, deployments: [{name: Echoo}]",
        ECHO.format(answer="x"),
        "applications[6].deployments[0].name: 'bad6:app' has no deployment 'Echoo'\n  fix: did you mean 'Echo'?",
    ),
    (
        "import_path: bad7:app, runtime_env: {working_dir: 'local:///not-there'}",
        ECHO.format(answer="x"),
        "applications[7].runtime_env.working_dir: directory '/not-there' cannot be used on the worker: "
        "No such file or directory\n  fix: it has to be on every worker",
    ),
    (
        "import_path: bad8:app, args: {x: 1}",
        BUILDER,
        "applications[8].args: args were given, but builder 'bad8:app' takes no parameter\n  fix: leave args out",
    ),
    (
        "import_path: bad9:app, deployments: [{name: Echo, user_config: 5}]",
        ECHO.format(answer="x"),
        "applications[9].deployments[0].user_config: deployment 'Echo' failed to start 3 times: "
        "user_config is set, but Echo has no method reconfigure(self, user_config)\n  fix: leave user_config out",
    ),
    (
        "import_path: bad10:app, route_prefix: /echo",
        ECHO.format(answer="taken over"),
        "applications[10].route_prefix: it does not get the route '/echo': ",
    ),
    (
        "import_path: bad11:app, deployments: [{name: Echo, user_config: {rate: fast}}]",
        ECHO.format(answer="x").replace("    async", "    def reconfigure(self, c): int(c['rate'])\n\n    async"),
        "applications[11].deployments[0].user_config: deployment 'Echo' failed to start 3 times: "
        "ValueError: invalid literal for int() with base 10: 'fast' (bad11.py:8)\n"
        "  fix: mend user_config, or Echo.reconfigure",
    ),
    (
        "import_path: bad12:app, deployments: [{name: Echo, startup_timeout_s: 0.2}]",
        CTOR.replace("1 / 0", "__import__('time').sleep(60)"),
        "applications[12].deployments[0].startup_timeout_s: deployment 'Echo' ",
    ),
]


@pytest.mark.long
def test_code_that_cannot_run_is_told_with_its_line_and_changes_nothing(
    mesh: MeshProcess, echo: Path, write: Write
) -> None:
    before = pids(mesh)
    write("nowhere_near.py", "")
    lines = ["applications:"]
    for i, (fields, code, _) in enumerate(BAD_APPLICATIONS):
        write(f"bad{i}.py", code)
        route = "" if "route_prefix" in fields else f", route_prefix: /bad{i}"
        lines.append(f"- {{name: bad{i}{route}, {fields}}}")
    bad = write("bad.yaml", "\n".join(lines))
    result = mesh.meshctl("deploy", "bad.yaml", cwd=bad.parent, timeout=60)
    errors = [f"error: {part}" for part in result.stderr.split("error: ")[1:]]
    assert len(errors) == len(BAD_APPLICATIONS), result.stderr
    for i, (fields, _, message) in enumerate(BAD_APPLICATIONS):
        told = re.sub(r"\n  why: .*(?=\n  fix: )", "", errors[i], flags=re.DOTALL)
        place, _, said = told.partition(": applications")
        file, line, column = place.removeprefix("error: ").split(":")
        assert (file, line) == ("bad.yaml", str(i + 2))
        assert lines[i + 1][int(column) - 1 :], fields
        assert f"applications{said}".startswith(message)
        assert "\n  fix: " in errors[i]
    assert_failed(result, 1, "echo: not deleted, because the deploy failed")
    assert {i: pid for i, pid in pids(mesh).items() if i in before} == before
    assert get(f"{mesh.http}/echo").text == "first"
    refused = get(f"{mesh.http}/bad5")
    assert (refused.status_code, refused.json()["detail"]) == (
        503,
        "application 'bad5' has no healthy replica: its deployment failed; "
        "ask its operator (the log has the request id)",
    )
    status = mesh.meshctl("status", "-o", "json")
    assert "Traceback" not in status.stdout
    failed = {a["name"]: a for a in status.json()["applications"]}["bad2"]
    assert (failed["state"], failed["message"]) == ("DEPLOY_FAILED", "RuntimeError: at import (bad2.py:1)")
    assert failed["failure"]["field"] == "import_path"
    told = mesh.meshctl("--debug", "status", "bad5", "-o", "json").json()["applications"][0]["failure"]["details"]
    assert "bad5.py" in told and told.endswith("ZeroDivisionError: division by zero")


@pytest.mark.long
def test_the_revision_before_serves_on_and_debug_shows_the_traceback(
    mesh: MeshProcess, echo: Path, write: Write
) -> None:
    before = pids(mesh)
    write("echo2.py", "raise RuntimeError('at import')\n")
    echo.write_text(CONFIG.replace("echo:app", "echo2:app"))
    result = mesh.meshctl("deploy", "mesh.yaml", cwd=echo.parent)
    message = "error: mesh.yaml:4:16: applications[0].import_path: RuntimeError: at import (echo2.py:1)\n  why: "
    end = "revision 2 failed and was rolled back to revision 1\n"
    traceback = 'echo2.py", line 1, in <module>\n'
    assert_failed(result, 7, f"echo: {end}", message, f"  why: {end}", traceback, "       RuntimeError: at import\n")
    assert pids(mesh) == before
    assert get(f"{mesh.http}/echo").text == "first"
    status = mesh.meshctl("status", "echo", "-o", "json").json()["applications"][0]
    assert (status["state"], status["serving_revision"]) == ("DEPLOY_FAILED", 1)
    assert status["message"] == f"{end.strip()}: RuntimeError: at import (echo2.py:1)"
    shown = mesh.meshctl("--debug", "deploy", str(echo))
    assert "Traceback (most recent call last)" in shown.stderr
    assert "echo2.py" in shown.stderr


@pytest.mark.long
def test_a_user_config_that_running_replicas_refuse_fails_its_revision(
    mesh: MeshProcess, echo: Path, write: Write
) -> None:
    hook = "    def reconfigure(self, c):\n        self.answer = c['rate']\n        self.answer = str(int(c['rate']))\n"
    write("rate.py", ECHO.format(answer="").replace("    async", f"{hook}\n    async"))
    good = CONFIG.replace("echo:app", "rate:app") + "  deployments:\n  - {name: Echo, user_config: {rate: 1}}\n"
    echo.write_text(good)
    assert mesh.meshctl("deploy", "mesh.yaml", cwd=echo.parent).code == 0
    goal, before = mesh.meshctl("config").stdout, pids(mesh)
    echo.write_text(good.replace("rate: 1", "rate: fast"))
    result = mesh.meshctl("deploy", "mesh.yaml", cwd=echo.parent)
    message = (
        "error: mesh.yaml:6:31: applications[0].deployments[0].user_config: deployment 'Echo' did not take its new "
        "settings: ValueError: invalid literal for int() with base 10: 'fast' (rate.py:10)\n"
    )
    end = "echo: revision 3 failed and was rolled back to revision 2\n"
    assert_failed(result, 7, end, message, "  fix: mend user_config, or Echo.reconfigure")
    assert mesh.meshctl("config").stdout == goal
    assert pids(mesh) == before
    eventually(lambda: get(f"{mesh.http}/echo").text == "1", what="the old value is in force again")
    ((replica_id, pid),) = before.items()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pids(mesh).get(replica_id, pid) not in (0, pid), what="the replica starts again")
    eventually(lambda: get(f"{mesh.http}/echo").text == "1", what="it answers as before")
    echo.write_text(good.replace("rate: 1", "rate: 2"))
    assert mesh.meshctl("deploy", "mesh.yaml", cwd=echo.parent).code == 0
    assert get(f"{mesh.http}/echo").text == "2"


@pytest.mark.long
def test_a_route_is_taken_over_without_a_gap(mesh: MeshProcess, echo: Path, write: Write) -> None:
    write("echo2.py", ECHO.format(answer="second"))
    echo.write_text(CONFIG.replace("name: echo", "name: other").replace("echo:app", "echo2:app"))
    answers: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            response = get(f"{mesh.http}/echo")
            answers.append(response.text if response.status_code == 200 else str(response.status_code))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert mesh.meshctl("deploy", str(echo)).code == 0
        assert get(f"{mesh.http}/echo").text == "second"
    finally:
        over.set()
        asking.join(30)
    assert answers == sorted(answers) and set(answers) <= {"first", "second"}


@pytest.mark.long
@pytest.mark.parametrize(("import_path", "message"), [("echo2:app", "RuntimeError: at import"), ("echo2", "like")])
def test_run_of_broken_code_says_why_and_leaves_nothing(
    write: Write, tmp_path: Path, import_path: str, message: str
) -> None:
    write("echo2.py", "raise RuntimeError('at import')\n")
    result = meshctl("run", import_path, *FREE_PORTS, cwd=tmp_path)
    assert result.stdout == ""
    assert result.code == (1 if ":" in import_path else 2)
    start = "error: application 'default' failed: " if ":" in import_path else "error: TARGET: "
    what = next(line for line in result.stderr.splitlines() if line.startswith(start))
    fix = result.stderr.splitlines()[-1]
    assert message in what
    assert fix.startswith("  fix: ")


def test_ports_in_use_are_told_together(taken_port: int) -> None:
    flags = ("--admin-port", "--control-port", "--grpc-port", "--port")
    taken = [part for flag in flags for part in (flag, str(taken_port))]
    result = meshctl("run", "slow:app", *taken, cwd=EXAMPLES)
    assert_failed(result, 4, "error: 4 ports are taken\n  why: cannot listen for HTTP on 127.0.0.1:", "fix: ")
    assert result.stderr.count("Address already in use") == 4


@pytest.mark.parametrize("flag", ["--grpc-port", "--admin-port"])
def test_a_port_in_use(flag: str, taken_port: int) -> None:
    result = meshctl("run", "slow:app", *FREE_PORTS, flag, str(taken_port), cwd=EXAMPLES)
    assert_failed(result, 4, f"{taken_port}: Address already in use\n  fix: ", flag)


def test_a_store_in_use(tmp_path: Path) -> None:
    with MeshProcess("start", "--data-dir", str(tmp_path), *FREE_PORTS):
        assert_failed(meshctl("start", "--data-dir", str(tmp_path), *FREE_PORTS), 4, "mesh.db")


def test_a_store_that_does_not_answer() -> None:
    result = meshctl("controlplane", "--store", "etcd://127.0.0.1:1/mesh", "--port", "0", "--admin-port", "0")
    assert_failed(result, 5, "127.0.0.1:1")


@pytest.mark.parametrize("store", ["postgres://x", "etcd://", "nonsense"])
def test_a_store_that_is_none(store: str) -> None:
    assert_failed(meshctl("controlplane", "--store", store, "--port", "0", "--admin-port", "0"), 2, store)


@pytest.mark.parametrize("store", ["etcd://127.0.0.1:1", "etcd://127.0.0.1:1,127.0.0.1:2/"])
@pytest.mark.parametrize("command", ["controlplane", "start"])
def test_a_store_in_etcd_without_a_prefix(command: str, store: str) -> None:
    ports = FREE_PORTS if command == "start" else ("--port", "0", "--admin-port", "0")
    result = meshctl(command, "--store", store, *ports)
    assert_failed(result, 2, f"'{store}' has no prefix", f"fix: write {store.rstrip('/')}/PREFIX")


@pytest.mark.parametrize("args", [("status", "nope"), ("config", "nope"), ("delete", "n" * 300)])
def test_an_unknown_application(mesh: MeshProcess, args: tuple[str, ...]) -> None:
    result = mesh.meshctl(*args)
    assert_failed(result, 3, args[1][:60], "fix: ")
    assert len(result.stderr) < 250


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_errors_are_for_people_and_leave_stdout_alone_in_every_form(mesh: MeshProcess, form: str) -> None:
    """Programs have the exit code; who reads stdout must not take an error for an answer."""
    assert_failed(mesh.meshctl("status", "nope", "-o", form), 3, "error: ", "fix: ")


def test_validate_for_programs(write: Write) -> None:
    path = write("mesh.yaml", CONFIG)
    assert meshctl("validate", "mesh.yaml", "-o", "json", cwd=path.parent).json() == {
        "file": "mesh.yaml",
        "valid": True,
        "applications": ["echo"],
    }


def test_a_missing_config_file(mesh: MeshProcess) -> None:
    assert_failed(mesh.meshctl("deploy", "nope.yaml"), 3, "nope.yaml")


@pytest.mark.parametrize("args", [("status",), ("deploy", "hello/mesh.yaml"), ("shutdown", "-y")])
def test_no_control_plane(args: tuple[str, ...]) -> None:
    result = meshctl(*args, "--address", "127.0.0.1:1,127.0.0.1:2", cwd=EXAMPLES)
    assert_failed(result, 5, "127.0.0.1:1, 127.0.0.1:2", "fix: ")


def test_an_address_without_a_port() -> None:
    assert_failed(meshctl("status", "--address", "localhost"), 2, "localhost")


def test_debug_shows_the_traceback() -> None:
    result = meshctl("--debug", "status", "--address", "127.0.0.1:1")
    assert result.code == 5
    assert "Traceback" in result.stderr
