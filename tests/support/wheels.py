"""Wheels made on the spot, and an index of nothing but them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path


def wheel(directory: Path, name: str, version: str, *requires: str, source: str = "") -> Path:
    """Write a wheel with one module of the distribution's name."""
    module, info = f"{name}.py", f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        module: source or f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


def index_of(directory: Path) -> dict[str, str]:
    """Return variables with which uv and pip know only the wheels in a directory."""
    return {
        "UV_FIND_LINKS": str(directory),
        "UV_DEFAULT_INDEX": (directory / "no-index").as_uri(),
        "UV_NO_CONFIG": "1",
        "PIP_FIND_LINKS": str(directory),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": "/dev/null",
    }


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
