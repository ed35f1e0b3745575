"""Packages on real stores over real gRPC: whole or not at all, bounded, kept while named, collected when not."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.clock import SYSTEM, Clock
from mesh.controlplane.collection import ABANDONED_S, KEEP_S
from mesh.controlplane.collector import Collector
from mesh.controlplane.etcd_store import EtcdOptions, open_etcd
from mesh.controlplane.opening import open_store
from mesh.controlplane.package_records import CHUNK_BYTES
from mesh.controlplane.package_service import DATA_BYTES_MAX, Packages
from mesh.controlplane.package_store import NoRoom, PackageStore
from mesh.controlplane.records import encode_application
from mesh.controlplane.server import ControlPlane
from mesh.controlplane.sqlite_store import open_sqlite
from mesh.controlplane.store import Compacted, Put, Remove, Store
from mesh.errors import Conflict, NotFound, Unreachable
from mesh.model import Application, ApplicationConfig, RuntimeEnv
from mesh.settings import ControlPlaneSettings
from mesh.v1 import deployment_pb2, deployment_service_pb2
from mesh.v1 import package_service_pb2 as api
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from mesh.v1.package_service_pb2_grpc import PackageServiceStub, add_PackageServiceServicer_to_server
from tests.support.etcd import EtcdCluster
from tests.support.mesh_process import MeshProcess

MIB = 1024 * 1024
QUOTA = 4 * MIB
WAIT_S = 30.0
_prefixes = itertools.count(1)


class Hand(Clock):
    """A clock whose wall time a test moves on."""

    passed_s: list[float] = [0.0]  # noqa: RUF012 - Clock has no dictionary

    def wall(self) -> float:
        return super().wall() + sum(self.passed_s)


@dataclass
class Place:
    """Two keyspaces of one store, the service on one of them, and a client."""

    goal: Store
    raw: Store
    packages: PackageStore
    stub: Any
    clock: Hand

    async def upload(self, data: bytes, *, digest: str = "", size: int = -1, step: int = DATA_BYTES_MAX) -> str:
        digest = digest or digest_of(data)
        await self.stub.Upload(messages(data, digest, len(data) if size < 0 else size, step), timeout=WAIT_S)
        return digest

    async def download(self, digest: str) -> bytes:
        parts = [part.data async for part in self.stub.Download(api.DownloadRequest(digest=digest), timeout=WAIT_S)]
        assert all(0 < len(part) <= DATA_BYTES_MAX for part in parts)
        return b"".join(parts)

    async def missing(self, *digests: str) -> list[str]:
        return list((await self.stub.FindMissing(api.FindMissingRequest(digests=digests), timeout=WAIT_S)).missing)

    async def keys(self, prefix: str = "") -> list[str]:
        return [item.key for item in (await self.raw.list(prefix)).items]

    async def collect(self) -> None:
        await Collector(self.goal, self.packages, self.clock).collect()

    def pass_s(self, seconds: float) -> None:
        self.clock.passed_s.append(seconds)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def messages(data: bytes, digest: str, size: int, step: int) -> AsyncIterator[api.UploadRequest]:
    yield api.UploadRequest(header=api.PackageHeader(digest=digest, size=size))
    for start in range(0, len(data), step):
        yield api.UploadRequest(data=data[start : start + step])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "etcd"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    goal: Store
    raw: Store
    if request.param == "etcd":
        cluster: EtcdCluster = request.getfixturevalue("etcd")
        prefix = f"/packages/{next(_prefixes)}"
        goal = await open_etcd(EtcdOptions(cluster.endpoints, prefix, timeout_s=5.0))
        raw = await open_etcd(EtcdOptions(cluster.endpoints, f"{prefix}-packages", timeout_s=5.0))
    else:
        goal = await open_sqlite(str(tmp_path / "mesh.db"))
        raw = await open_sqlite(str(tmp_path / "mesh.db-packages"), bulk=True)
    clock = Hand()
    clock.passed_s.clear()
    packages = PackageStore(raw, clock, QUOTA)
    servicer = Packages(packages)
    server = grpc.aio.server()
    add_PackageServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield Place(goal, raw, packages, PackageServiceStub(channel), clock)
    finally:
        await channel.close()
        await server.stop(1.0)
        await servicer.close()
        await goal.close()
        await raw.close()


async def refused(work: Awaitable[object], code: grpc.StatusCode, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    assert (caught.value.code(), text in (caught.value.details() or "")) == (code, True), caught.value.details()


@pytest.mark.parametrize("size", [1, DATA_BYTES_MAX, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 7])
async def test_what_was_uploaded_can_be_downloaded(place: Place, size: int) -> None:
    data, other = content(size), digest_of(b"other")
    assert await place.missing(digest_of(data), other) == sorted([digest_of(data), other])
    digest = await place.upload(data, step=100_000)
    assert await place.missing(digest, other) == [other]
    assert await place.download(digest) == data
    before = await place.keys()
    assert await place.upload(data) == digest
    assert await place.keys() == before
    assert await place.keys("uploads/") == []
    assert (await place.goal.list("")).items == ()


async def test_what_breaks_its_word_never_appears(place: Place) -> None:
    data = content(CHUNK_BYTES + 1000)
    digest, wrong = digest_of(data), digest_of(b"x")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    await refused(place.upload(data, digest=wrong), invalid, f"not those of {wrong}")
    await refused(place.upload(data, size=len(data) + 1), invalid, f"{len(data)} bytes came")
    await refused(place.upload(data, size=len(data) - 1), invalid, "more bytes came")
    await refused(place.upload(data, size=0), invalid, "header.size")
    await refused(place.upload(data, digest="sha256:abc"), invalid, "header.digest")
    await refused(place.upload(data, step=DATA_BYTES_MAX + 1), invalid, "allowed")
    await refused(place.upload(data, size=65 * MIB), grpc.StatusCode.RESOURCE_EXHAUSTED, "64 MiB are allowed")

    async def headless() -> AsyncIterator[api.UploadRequest]:
        yield api.UploadRequest(data=b"x")

    async def twice() -> AsyncIterator[api.UploadRequest]:
        for _ in range(2):
            yield api.UploadRequest(header=api.PackageHeader(digest=digest, size=5))

    async def nothing() -> AsyncIterator[api.UploadRequest]:
        return
        yield

    for stream, text in ((headless, "no header"), (twice, "twice"), (nothing, "no header")):
        await refused(place.stub.Upload(stream(), timeout=WAIT_S), invalid, text)
    assert await place.missing(digest, wrong) == sorted([digest, wrong])
    await refused(place.download(digest), grpc.StatusCode.NOT_FOUND, "there is no package")
    await refused(place.download("x"), invalid, "digest")
    await refused(place.missing("x"), invalid, "digests[0]")
    await refused(place.missing(*[digest] * 201), invalid, "200 are allowed")

    async def swept() -> bool:
        await place.collect()
        return await place.keys() == ["usage"]

    await until(swept)
    await place.upload(data)
    assert await place.download(digest) == data


async def test_an_upload_that_breaks_off_leaves_nothing_for_long(place: Place) -> None:
    data = content(3 * CHUNK_BYTES)
    digest = digest_of(data)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[api.UploadRequest]:
        async for message in messages(data[: 2 * CHUNK_BYTES], digest, len(data), DATA_BYTES_MAX):
            yield message
        await go_on.wait()

    call = place.stub.Upload(slow(), timeout=WAIT_S)

    async def half_there() -> bool:
        return len(await place.keys("chunks/")) == 2

    await until(half_there)
    await place.collect()
    assert await half_there()
    assert await place.missing(digest) == [digest]
    call.cancel()

    async def gone() -> bool:
        await place.collect()
        return await place.keys() == ["usage"]

    await until(gone)


async def test_uploads_of_the_same_package_do_not_disturb_each_other(place: Place) -> None:
    data = content(CHUNK_BYTES + 5)
    liar = bytes(reversed(data))
    results = await asyncio.gather(
        *(place.upload(data) for _ in range(3)),
        *(place.upload(liar, digest=digest_of(data)) for _ in range(2)),
        return_exceptions=True,
    )
    assert results[:3] == [digest_of(data)] * 3
    assert await place.download(digest_of(data)) == data

    async def clean() -> bool:
        await place.collect()
        return len(await place.keys()) == 1 + 1 + 2  # usage, the record, its chunks

    await until(clean)
    assert await place.download(digest_of(data)) == data


async def test_all_packages_together_have_a_bound(place: Place) -> None:
    digests = [await place.upload(content(MIB + 1, seed)) for seed in range(3)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await place.upload(content(MIB, 9))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "3.0 of 4.0 MiB are used by 3 packages" in (caught.value.details() or "")
    with pytest.raises(NoRoom) as here:
        await place.packages.begin(digest_of(b""), MIB)
    assert "--package-quota" in here.value.hint and "delete applications" in here.value.hint
    # Of two that come at once, only one has the last room.
    room = [place.packages.begin(digest_of(bytes([n])), MIB - 3) for n in range(4)]
    results = await asyncio.gather(*room, return_exceptions=True)
    assert [type(result) for result in results].count(NoRoom) == 3
    place.pass_s(KEEP_S)
    await place.collect()
    assert await place.missing(*digests) == sorted(digests)
    await place.collect()
    await place.upload(content(MIB, 9))


async def test_what_is_named_or_asked_for_stays(place: Place) -> None:
    names = ("config", "history", "asked", "taken", "unused")
    data = {name: content(CHUNK_BYTES + 10, seed) for seed, name in enumerate(names)}
    digest = {name: await place.upload(content) for name, content in data.items()}
    env = RuntimeEnv(working_dir="/srv", py_modules=(f"package:{digest['config']}",))
    application = Application(config=ApplicationConfig(runtime_env=env))
    await place.goal.commit((), (Put("applications/default", encode_application(application)),))
    history = b"\x00\xff\x12G" + f"package:{digest['history']}".encode() + b"\x1a"
    await place.goal.commit((), (Put("history/default/1", history),))
    place.pass_s(KEEP_S - 10)
    await place.collect()
    assert await place.missing(digest["asked"]) == []
    await place.download(digest["taken"])
    place.pass_s(20)
    await place.collect()
    assert await place.missing(*digest.values()) == [digest["unused"]]
    for name in names[:4]:
        assert await place.download(digest[name]) == data[name]
    await place.goal.commit((), (Remove("applications/default"), Remove("history/default/1")))
    place.pass_s(KEEP_S)
    await place.collect()
    assert await place.keys() == ["usage"]


async def test_who_asks_in_time_keeps_a_package_from_being_removed(place: Place) -> None:
    digest = await place.upload(b"x")
    place.pass_s(KEEP_S)
    records = await place.packages.records()
    assert await place.missing(digest) == []
    with pytest.raises(Conflict):
        await place.packages.remove(digest, records)
    assert await place.download(digest) == b"x"


async def test_who_was_given_up_can_write_no_more(place: Place) -> None:
    data = content(CHUNK_BYTES + 1)
    upload = await place.packages.begin(digest_of(data), len(data))
    assert upload is not None
    await place.packages.write(upload, 0, data[:CHUNK_BYTES])
    place.pass_s(ABANDONED_S)
    await place.collect()
    assert await place.keys() == ["usage"]
    with pytest.raises(Unreachable, match="given up"):
        await place.packages.write(upload, 1, data[CHUNK_BYTES:])
    with pytest.raises(Unreachable, match="given up"):
        await place.packages.finish(upload)
    with pytest.raises(NotFound):
        await place.packages.package(digest_of(data))
    assert await place.keys() == ["usage"]


async def test_a_control_plane_killed_in_an_upload_leaves_no_half_package(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mesh.db"
    data = content(3 * CHUNK_BYTES)
    digest = digest_of(data)
    killed = asyncio.Event()

    async def cut(process: MeshProcess) -> AsyncIterator[api.UploadRequest]:
        async for message in messages(data[: 2 * CHUNK_BYTES + 10], digest, len(data), DATA_BYTES_MAX):
            yield message
        process.kill_parent()
        await killed.wait()

    with MeshProcess("controlplane", "--store", store, "--port", "0", "--admin-port", "0") as process:
        async with grpc.aio.insecure_channel(process.control) as channel:
            stub: Any = PackageServiceStub(channel)
            await stub.Upload(messages(b"whole", digest_of(b"whole"), 5, 5), timeout=WAIT_S)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Upload(cut(process), timeout=WAIT_S)
    clock = Hand()
    clock.passed_s[:] = [ABANDONED_S]
    settings = ControlPlaneSettings(store=store)
    goal, raw = await open_store(settings, clock), await open_store(settings, clock, packages=True)
    packages = PackageStore(raw, clock, QUOTA)
    try:
        assert await packages.missing((digest, digest_of(b"whole"))) == {digest}
        await Collector(goal, packages, clock).collect()
        keys = [item.key for item in (await raw.list("")).items]
        assert [key.partition("/")[0] for key in keys] == ["chunks", "packages", "usage"]
    finally:
        await goal.close()
        await raw.close()


async def test_an_apply_that_names_a_package_needs_it() -> None:
    control = ControlPlane(ControlPlaneSettings(port=0), SYSTEM)
    await control.start()
    try:
        async with grpc.aio.insecure_channel(control.address) as channel:
            deployments: Any = DeploymentServiceStub(channel)
            packages: Any = PackageServiceStub(channel)
            digest = digest_of(b"code")
            env = deployment_pb2.RuntimeEnv(working_dir="/srv", py_modules=[f"package:{digest}"])
            application = deployment_pb2.ApplicationConfig(
                name="app", route_prefix="/", import_path="m:app", runtime_env=env
            )
            config = deployment_pb2.Config(applications=[application])
            apply = deployment_service_pb2.ApplyRequest(config=config)
            where = "applications[0].runtime_env.py_modules[0]: there is no package sha256:"
            await refused(deployments.Apply(apply, timeout=WAIT_S), grpc.StatusCode.INVALID_ARGUMENT, where)
            await packages.Upload(messages(b"code", digest, 4, 4), timeout=WAIT_S)
            response = await deployments.Apply(apply, timeout=WAIT_S)
            assert [a.revision for a in response.applications] == [1]
    finally:
        await control.stop()


async def test_a_store_for_large_values_keeps_no_history(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db-packages"
    store = await open_sqlite(str(path), bulk=True)
    try:
        revision = await store.commit((), (Put("a", b"1"),))
        for _ in range(20):
            await store.commit((), (Put("big", content(MIB)),))
            await store.commit((), (Remove("big"),))
        assert [item.key for item in (await store.list("")).items] == ["a"]
        with pytest.raises(Compacted):
            await store.list("", revision=revision)
    finally:
        await store.close()
    assert path.stat().st_size < 4 * MIB
    again = await open_sqlite(str(path), bulk=True)
    item = await again.get("a")
    await again.close()
    assert item is not None and item.value == b"1"
