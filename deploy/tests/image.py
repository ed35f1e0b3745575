"""What deploy/Dockerfile builds, built here without a container engine: its own commands, below another root.

Owns the reading of the Dockerfile. The system's packages (apt-get) and the user are the machine's own business.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from deploy.tests.rendered import DEPLOY

SOURCE = DEPLOY.parent


@dataclass
class Image:
    """The last stage: how its processes start. `root` is where its /opt, /src and /var are."""

    root: Path
    entrypoint: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: int = 0
    healthcheck: list[str] = field(default_factory=list)

    def placed(self, text: str) -> str:
        """Return a text of the Dockerfile with its directories below `root`."""
        return re.sub(r"(?<![\w.])/(opt/mesh|src|var/lib/mesh)\b", rf"{self.root}/\1", text)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def build(root: Path) -> Image:
    """Do what the Dockerfile says, and return what runs."""
    image = Image(root)
    directory, stage = root, 0
    for word, argument in instructions(DEPLOY / "Dockerfile"):
        if word == "FROM":
            stage += 1
        elif word == "WORKDIR":
            directory = Path(image.placed(argument))
            directory.mkdir(parents=True, exist_ok=True)
        elif word == "COPY" and not argument.startswith("--from"):
            *sources, target = argument.split()
            for source in sources:
                into = directory / target / Path(source).name if target.endswith("/") else directory / target
                _copy(SOURCE / source, into)
        elif word == "RUN" and stage == 1:
            # The interpreter of the image is the one that runs this.
            command = image.placed(argument).replace("python -m venv", f"{sys.executable} -m venv", 1)
            (root / "opt").mkdir(exist_ok=True)
            subprocess.run(command, shell=True, check=True, cwd=directory, timeout=300)  # noqa: S602
        elif word == "ENV" and stage == 2:
            for name, value in re.findall(r"(\w+)=(\S+)", argument):
                image.environment[name] = image.placed(value).replace("$PATH", "/usr/bin:/bin")
        elif word == "USER":
            image.user = int(argument.partition(":")[0])
        elif word == "ENTRYPOINT":
            image.entrypoint = json.loads(argument)
        elif word == "HEALTHCHECK":
            image.healthcheck = json.loads(argument.partition(" CMD ")[2])
    (root / "var/lib/mesh").mkdir(parents=True, exist_ok=True)
    return image


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
