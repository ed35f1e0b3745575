"""Code of this machine on its way to the control plane: directories and wheels become packages.

Owns which places of a config are of this machine: absolute paths, for relative ones are absolute by now. All else, such
as local:///DIRECTORY, is passed through. Packs before anything is sent; uploads what is missing. How a package is made
is `packages.pack`'s. Called by `deploy` and `diff`; `run` and `start` use directories in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesh.cli.client import Client
from mesh.cli.config_file import Config, ConfigFile
from mesh.errors import InvalidConfig, Problem
from mesh.model import ApplicationConfig
from mesh.packages.pack import Packed, pack
from mesh.packages.place import Package, places, render
from mesh.packages.tree import PackError, megabytes
from mesh.v1 import package_service_pb2 as api
from mesh.v1.package_service_pb2_grpc import PackageServiceStub

UPLOAD_TIMEOUT_S = 600.0
"""For one package. The control plane gives it no more."""
_DATA_BYTES = 256 * 1024
_DIGESTS_MAX = 200
"""In one question."""
_WORKING_DIR = "working_dir"


@dataclass(frozen=True, slots=True)
class Packages:
    """A config whose code is named by packages, and those that were made for it."""

    config: Config
    made: tuple[tuple[str, Packed], ...]
    """With what it is of, such as "working_dir of application 'shop'", each package once."""

    async def upload(self, client: Client, say: Callable[[str], None]) -> None:
        """Upload what the control plane does not have; `say` is told of each. Raises what the client does."""
        if not self.made:
            return
        digests = [packed.digest for _, packed in self.made]

        async def find(stub: Any) -> set[str]:
            missing: set[str] = set()
            for start in range(0, len(digests), _DIGESTS_MAX):
                request = api.FindMissingRequest(digests=digests[start : start + _DIGESTS_MAX])
                missing.update((await stub.FindMissing(request, timeout=client.left_s())).missing)
            return missing

        missing = await client.call(find, service=PackageServiceStub)
        for what, packed in self.made:
            if packed.digest in missing:
                say(f"uploading {what}: {megabytes(packed.size)}")
                await client.call(_sender(packed), service=PackageServiceStub)


@contextlib.contextmanager
def packages(file: ConfigFile) -> Iterator[Packages]:
    """Make the packages of a config file, on disk until the block ends. Blocks. Raises InvalidFile."""
    with ExitStack() as stack:
        packer = _Packer(file, stack)
        applications = tuple(packer.packed(a, i) for i, a in enumerate(file.config.applications))
        if packer.problems:
            raise file.located(InvalidConfig(tuple(packer.problems)))
        yield Packages(replace(file.config, applications=applications), tuple(packer.made.values()))


def with_packages(file: ConfigFile) -> Config:
    """Return a file's config as `deploy` would apply it, and upload nothing. Blocks. Raises InvalidFile."""
    with packages(file) as found:
        return found.config


class _Packer:
    """Makes each package of one file once, whoever names it."""

    def __init__(self, file: ConfigFile, stack: ExitStack) -> None:
        self.made: dict[str, tuple[str, Packed]] = {}
        """By digest."""
        self.problems: list[Problem] = []
        self._file = file
        self._stack = stack
        self._texts: dict[tuple[str, bool], str] = {}

    def packed(self, application: ApplicationConfig, index: int) -> ApplicationConfig:
        """Return an application with packages in the place of directories."""
        env = application.runtime_env
        texts: dict[str, str] = {}
        for field, text in places(env):
            if not text.startswith("/"):
                texts[field] = text
                continue
            try:
                texts[field] = self._text(text, field, application.name)
            except PackError as error:
                at = f"applications[{index}].runtime_env.{field}"
                self.problems.append(Problem(at, error.message, error.hint))
                texts[field] = text
        working_dir = texts.pop(_WORKING_DIR, "")
        named = replace(env, working_dir=working_dir, py_modules=tuple(texts.values()))
        return replace(application, runtime_env=named)

    def _text(self, path: str, field: str, application: str) -> str:
        module = field != _WORKING_DIR
        if (known := self._texts.get((path, module))) is None:
            made = pack(Path(path), module=module, without=Path(self._file.path))
            self._stack.callback(made.close)
            self.made.setdefault(made.digest, (f"{field} of application {application!r}", made))
            known = self._texts[path, module] = render(Package(made.digest))
        return known


def _sender(packed: Packed) -> Callable[[Any], Any]:
    """Return the call that uploads a package; it may be repeated."""

    async def messages() -> AsyncIterator[api.UploadRequest]:
        yield api.UploadRequest(header=api.PackageHeader(digest=packed.digest, size=packed.size))
        packed.file.seek(0)
        while data := packed.file.read(_DATA_BYTES):
            yield api.UploadRequest(data=data)

    async def send(stub: Any) -> None:
        await stub.Upload(messages(), timeout=UPLOAD_TIMEOUT_S)

    return send
