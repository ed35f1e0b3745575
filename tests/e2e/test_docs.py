"""What the documents show is so: commands give the output that stands there, code runs, metrics exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli.config_file import here, parse
from tests.support.mesh_process import EXAMPLES, FREE_PORTS, ROOT, MeshProcess, environment, eventually

README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()


def consoles(text: str) -> list[list[tuple[str, list[str]]]]:
    """Return each console block as a list of (command, output lines)."""
    blocks = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        commands: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], []))
            else:
                commands[-1][1].append(line)
        blocks.append(commands)
    return blocks


def shown_file(text: str, name: str) -> str:
    """Return the file `name` of a document: the block after the first paragraph that names it."""
    found = re.search(rf"`{re.escape(name)}`[^`]*:\n\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, name
    return found[1]


def at(mesh: MeshProcess, text: str) -> str:
    """Return a command or code of a document with the ports of `mesh` in place of the usual ones."""
    ports = {
        "localhost:8000": mesh.http,
        "localhost:9901": mesh.admin,
        "127.0.0.1:7070": mesh.control,
        "127.0.0.1:9000": mesh.grpc,
        "meshctl call": f"meshctl call --grpc-address {mesh.grpc}",
    }
    for usual, real in ports.items():
        text = text.replace(usual, real)
    return text


def shell(command: str, mesh: MeshProcess | None, cwd: Path) -> list[str]:
    """Run a command of a document against `mesh`; return what it said, with its errors if it failed."""
    env = environment({"NO_PROXY": "*"} | ({"MESH_ADDRESS": mesh.control} if mesh else {}))
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    command = at(mesh, command) if mesh else command
    done = subprocess.run(["sh", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    return lines + done.stderr.splitlines() if done.returncode else lines


def steady(line: str, mesh: MeshProcess | None) -> str:
    """Return a line without what differs from run to run."""
    line = line.replace(mesh.control, "127.0.0.1:7070") if mesh else line
    line = re.sub(r'(?<="request_id": ")\w+', "ID", line)
    return re.sub(r"(?<=/       )\d+m?s\b", "AGE", line).rstrip()


def assert_shown(commands: list[tuple[str, list[str]]], mesh: MeshProcess | None, cwd: Path) -> None:
    for command, shown in commands:
        said = [steady(line, mesh) for line in shell(command, mesh, cwd)]
        assert said == [steady(line, mesh) for line in shown], command


def test_the_tour_of_the_readme() -> None:
    first, *_ = consoles(README)
    with MeshProcess("run", "slow:app", "--working-dir", str(EXAMPLES), *FREE_PORTS) as mesh:
        assert_shown(first, mesh, ROOT)


@pytest.mark.long
def test_deploying_as_the_readme_does(tmp_path: Path) -> None:
    _, deploying, wrong, _ = consoles(README)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    with MeshProcess("start", "--data-dir", str(tmp_path / "state"), *FREE_PORTS, cwd=tmp_path) as mesh:
        assert_shown(deploying[:1], mesh, tmp_path)
        eventually(lambda: "hallo" in "".join(shell("curl -s localhost:8000/-/routes", mesh, tmp_path)), what="routes")
        assert_shown(deploying[1:], mesh, tmp_path)
        assert_shown(wrong, mesh, tmp_path)


@pytest.mark.long
def test_the_library_of_the_readme() -> None:
    *_, library = consoles(README)
    with MeshProcess("run", "config.yaml", *FREE_PORTS, cwd=EXAMPLES / "library") as mesh:
        assert_shown(library, mesh, ROOT)


def test_the_readme_shows_the_examples_as_they_are() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code.strip() in (EXAMPLES / "slow.py").read_text()
    (rule,) = re.findall(r"```proto\n(.*?)```", README, re.DOTALL)
    assert rule in (EXAMPLES / "library/library/v1/library.proto").read_text()


@pytest.mark.long
def test_a_new_grpc_service_as_in_the_guide(tmp_path: Path) -> None:
    compiling, using = consoles(GUIDE)
    (tmp_path / "greet/v1").mkdir(parents=True)
    for name in ("greet/v1/greet.proto", "greeting.py"):
        (tmp_path / name).write_text(shown_file(GUIDE, name))
    assert_shown(compiling, None, tmp_path)
    with MeshProcess("run", "greeting:app", *FREE_PORTS, cwd=tmp_path) as mesh:
        (tmp_path / "client.py").write_text(at(mesh, shown_file(GUIDE, "client.py")))
        assert_shown(using, mesh, tmp_path)


@pytest.mark.long
def test_the_code_of_the_guide_is_served(tmp_path: Path) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "guide.py").write_text(code)
    with MeshProcess("run", "guide:app", "--working-dir", str(tmp_path), *FREE_PORTS) as mesh:
        assert shell("curl -s 'localhost:8000/?name=Ada'", mesh, tmp_path) == ['{"message":"Hi, Ada!"}']
    with MeshProcess("run", "guide:ping", "--working-dir", str(tmp_path), *FREE_PORTS) as mesh:
        assert shell("curl -s localhost:8000/", mesh, tmp_path) == ["pong"]


def test_the_config_files_of_the_guide_are_valid() -> None:
    texts = [text for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "applications:" in text]
    assert len(texts) == 2
    for text in texts:
        assert parse(text, path="mesh.yaml", surroundings=here(EXAMPLES / "hello")).config.applications


def test_the_metrics_of_the_guide_exist() -> None:
    import mesh.telemetry as telemetry

    known = {
        sample.name.removesuffix("_bucket") for metric in telemetry.REGISTRY.collect() for sample in metric.samples
    } | {metric.name for metric in telemetry.REGISTRY.collect()}
    table = GUIDE.partition("| metric | labels |")[2].partition("\n\n")[0]
    for name in re.findall(r"`(mesh_\w+)`", table):
        assert name in known or name.removesuffix("_total") in known, name
