"""The console blocks of a document: read, run for real, compared, and written anew.

`python -m tests.support.console docs/production.md` runs every command of the document against a mesh of its own and
writes down what it said. Owns the parsing and what differs from run to run; the tests own what is run where.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.mesh_process import EXAMPLES, FREE_PORTS, ROOT, MeshProcess, environment, eventually

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_VARYING = (
    (re.compile(r"\b\d+(\.\d+)?(ms|[smhd])\b"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)"), "TIME"),
    (re.compile(r"\b(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(\.\d+)?\b"), "TIME"),
    (re.compile(r"\b([a-z]+-[A-Z]\w*)-[0-9a-f]{8}\d+\b"), r"\1-ID"),
    (re.compile(r"\blocal +\d+ "), "local PID "),
    (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:DIGEST"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "HEX"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\b[\d.]+ +[\d.]+ [MG]iB\b"), "CPUS MEMORY"),
    (re.compile(r"/tmp/\S*?/(?=shop|site-packages)"), "DIRECTORY/"),
    (re.compile(r"[ \t]+"), " "),
)
"""What differs from run to run, and the width of the columns that holds it."""
_PASSING = re.compile(
    r"\w+: (revision \d+ (deploying|is running)|waiting for)|uploading | ?TIME ago 1 NORMAL (BUILDING|PREPARING) "
)
"""Lines of progress, which may come or not: of what is over soon, the leader may see the beginning or only the end."""


@dataclass
class Step:
    """A command and what it said, as a document shows it."""

    command: str
    shown: list[str]


def steps(block: str) -> list[Step]:
    """Return the commands of a console block; a line that ends with a backslash goes on."""
    found: list[Step] = []
    goes_on = False
    for line in block.splitlines():
        if goes_on:
            found[-1].command += "\n" + line
        elif line.startswith("$ "):
            found.append(Step(line[2:], []))
        else:
            found[-1].shown.append(line)
        goes_on = line.endswith("\\") and (goes_on or line.startswith("$ "))
    return found


def run(command: str, mesh: MeshProcess, directory: Path) -> list[str]:
    """Run a command against `mesh`; return all that it said, errors too, and its exit code if that is not 0."""
    for usual, real in (("localhost:8000", mesh.http), ("localhost:9901", mesh.admin)):
        command = command.replace(usual, real)
    env = environment({"NO_PROXY": "*", "MESH_ADDRESS": mesh.control})
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    lines = [line.replace(mesh.control, "127.0.0.1:7070") for line in done.stdout.splitlines()]
    return [*lines, f"[exit code {done.returncode}]"] if done.returncode else lines


def steady(lines: list[str]) -> list[str]:
    """Return lines without what differs from run to run, and without those of what passes."""
    result = []
    for line in lines:
        for pattern, word in _VARYING:
            line = pattern.sub(word, line)
        if not _PASSING.match(line):
            result.append(line.rstrip())
    return result


def shop(directory: Path) -> Path:
    """Copy the example that the production guide works on."""
    shutil.copytree(EXAMPLES / "shop", directory / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    return directory / "shop"


def started(directory: Path) -> MeshProcess:
    """Return a mesh of one machine, to be entered."""
    return MeshProcess("start", "--data-dir", str(directory / "state"), *FREE_PORTS, cwd=directory)


def record(document: Path) -> None:
    """Run every command of a document and write what it said into it."""
    with tempfile.TemporaryDirectory() as name, started(Path(name)) as mesh:
        directory = shop(Path(name))

        def written(block: re.Match[str]) -> str:
            lines = []
            for step in steps(block[1]):
                lines += [f"$ {step.command}", *run(step.command, mesh, directory)]
            return "```console\n" + "\n".join(lines) + "\n```"

        text = BLOCK.sub(written, document.read_text())
    document.write_text(text.replace(name, "/srv"))


def quiet(mesh: MeshProcess) -> None:
    """Wait until nothing is under way."""
    eventually(lambda: '"DEPLOYING"' not in mesh.meshctl("status", "-o", "json").stdout, what="nothing is under way")


if __name__ == "__main__":
    record(ROOT / sys.argv[1])
