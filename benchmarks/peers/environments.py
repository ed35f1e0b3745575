"""Throw-away virtual environments: made by uv, with exactly the versions asked for, and measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers.running import ROOT, PeerFailed

INSTALL_S = 300.0
MARK = "installed.json"
THIS = f"mesh-serve @ {ROOT.as_uri()}"
"""This project, as a requirement."""
LOCK = ROOT / "requirements" / "run.lock"


class Environments:
    """Environments in a directory, made when first asked for; one that is there and has the same is used again."""

    def __init__(self, directory: Path, end_at: float) -> None:
        """`end_at` (monotonic) is when all installing must be over."""
        self._directory = directory
        self._end_at = end_at
        self._made: set[str] = set()
        self._failed: dict[str, str] = {}

    def get(self, name: str, requirements: tuple[str, ...]) -> Path:
        """Return the environment `name`.

        Raises:
            PeerFailed: It cannot be installed; said again at once when asked again.
        """
        place = self._directory / name
        wanted = json.dumps(requirements)
        mark = place / MARK
        # This project changes under the same name: it is installed anew, once.
        if name in self._made or (mark.exists() and mark.read_text() == wanted and THIS not in requirements):
            return place
        if name in self._failed:
            raise PeerFailed(self._failed[name])
        try:
            self._install(place, requirements)
        except PeerFailed as error:
            self._failed[name] = f"{name}: {error}"
            raise PeerFailed(self._failed[name]) from None
        mark.write_text(wanted)
        self._made.add(name)
        return place

    def _install(self, place: Path, requirements: tuple[str, ...]) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        self._run([uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, str(place)])
        command = [uv, "pip", "install", "--quiet", "--python", str(place / "bin" / "python"), "--compile-bytecode"]
        if THIS in requirements:
            command += ["--constraints", str(LOCK), "--reinstall-package", "mesh-serve"]
        self._run([*command, *requirements])

    def _run(self, command: list[str]) -> None:
        limit = max(0.0, min(INSTALL_S, self._end_at - time.monotonic()))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd="/")
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"not installed within {limit:.0f} s") from None
        except FileNotFoundError:
            raise PeerFailed(f"{command[0]} is missing; install the development requirements") from None
        if done.returncode:
            raise PeerFailed(f"not installed: {done.stderr.strip()[-1000:]}")


def size(environment: Path) -> dict[str, float]:
    """Return the size of an environment, byte code included as pip would leave it, and how many packages are in it."""
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    packages = list(environment.glob("lib/python*/site-packages/*.dist-info"))
    return {
        "installed_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "byte_code_mb": round(sum(file.stat().st_size for file in files if file.suffix == ".pyc") / 1e6, 1),
        "packages": len(packages),
    }


def versions(environment: Path, requirements: tuple[str, ...]) -> dict[str, str]:
    """Return the versions that were installed of what was asked for by name."""
    names = {requirement.split("==")[0].split("[")[0].split(" ")[0] for requirement in requirements}
    found = {}
    for place in environment.glob("lib/python*/site-packages/*.dist-info"):
        name, _, version = place.name.removesuffix(".dist-info").rpartition("-")
        if (name := name.replace("_", "-").lower()) in names:
            found[name] = version
    return dict(sorted(found.items()))
