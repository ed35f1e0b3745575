"""User code for tests of a real worker: a directory that it is written to, and the specs that name it."""

from __future__ import annotations

from pathlib import Path

from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, RuntimeEnv

HEAD = """
import asyncio, ctypes, os, pathlib, threading, time
import mesh

HERE = pathlib.Path(__file__).parent

@mesh.deployment
class Hello:
"""
TAIL = """
app = Hello.bind()
"""


class Code:
    """One module of user code whose deployment is called Hello."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def spec(self, body: str, *, replica_id: str = "r1", **settings: float | str) -> ReplicaSpec:
        """Write a class with this body; return a replica of it."""
        indented = "".join(f"    {line}\n" for line in body.strip().split("\n"))
        (self.directory / "served.py").write_text(HEAD + indented + TAIL)
        environment = RuntimeEnv(working_dir=str(self.directory))
        return ReplicaSpec(
            replica_id=replica_id,
            application="served",
            deployment="Hello",
            config=ApplicationConfig(name="served", import_path="served:app", runtime_env=environment),
            settings=DeploymentSettings(**settings),  # type: ignore[arg-type]
        )

    def line(self, text: str) -> int:
        """Return the number of the line of the module that has `text` in it."""
        lines = (self.directory / "served.py").read_text().split("\n")
        return next(number for number, line in enumerate(lines, 1) if text in line)
