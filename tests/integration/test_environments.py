"""Environments of a worker: its cache, and code that builds and replicas get from elsewhere."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.clock import SYSTEM
from mesh.errors import EnvironmentFailed
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, ReplicaState, RuntimeEnv
from mesh.settings import WorkerSettings
from mesh.worker.environments.cache import Cache, Held
from mesh.worker.environments.work import Stopped, Work
from mesh.worker.server import Worker
from tests.support.archives import tar_of, zip_of
from tests.support.scripted_control_plane import ControlPlane, WorkerSession

HELLO = """
import mesh
from greeting import TEXT

@mesh.deployment
class Hello:
    def __call__(self):
        return TEXT

app = Hello.bind()
"""
FILES = {"served.py": HELLO, "greeting.py": "TEXT = 'Hello!'\n"}
KEY = "archive-" + 64 * "0"
MIB = 1024 * 1024


class Nobody:
    """Who does not want to be told."""

    def doing(self, text: str) -> None: ...

    def printed(self, line: str) -> None: ...

    def warned(self, text: str) -> None: ...


# The cache.


def filled(into: Path) -> None:
    (into / "tree").mkdir()
    (into / "tree/f").write_text("f" * 1000)


def key(number: int) -> str:
    return f"archive-{number:064x}"


@pytest.fixture
async def work() -> Work:
    return Work(Nobody())


async def test_an_entry_is_made_once_and_shared(tmp_path: Path, work: Work) -> None:
    cache, made = Cache(tmp_path / "c", MIB, SYSTEM), []

    def make(into: Path) -> None:
        made.append(into)
        filled(into)

    holds = await asyncio.gather(*(asyncio.to_thread(cache.hold, KEY, make, work) for _ in range(4)))
    other = await asyncio.to_thread(Cache(tmp_path / "c", MIB, SYSTEM).hold, KEY, make, work)
    assert len(made) == 1
    assert {held.path for held in (*holds, other)} == {tmp_path / "c/entries" / KEY}
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700


async def test_who_comes_as_another_has_just_made_an_entry_shares_it(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (Cache(tmp_path / "c", MIB, SYSTEM) for _ in range(2))
    look = ours._held
    seen: list[Held] = []

    def held(key: str, place: Path, work: Work) -> Held | None:
        found = look(key, place, work)
        if not seen:
            seen.append(theirs.hold(KEY, filled, work))  # and they keep it
        return found

    monkeypatch.setattr(ours, "_held", held)
    entry = await asyncio.to_thread(ours.hold, KEY, filled, work)
    assert entry.path == seen[0].path


async def test_what_fails_leaves_nothing(tmp_path: Path, work: Work) -> None:
    cache = Cache(tmp_path / "c", MIB, SYSTEM)

    def fail(into: Path) -> None:
        filled(into)
        raise EnvironmentFailed("no")

    with pytest.raises(EnvironmentFailed, match="no"):
        await asyncio.to_thread(cache.hold, KEY, fail, work)
    assert list((tmp_path / "c/entries").iterdir()) == list((tmp_path / "c/tmp").iterdir()) == []
    (await asyncio.to_thread(cache.hold, KEY, filled, work)).release()


async def test_locks_of_what_could_not_be_made_go(tmp_path: Path, work: Work) -> None:
    cache, making, made = Cache(tmp_path / "c", MIB, SYSTEM), threading.Event(), threading.Event()

    def fail(into: Path) -> None:
        raise EnvironmentFailed("no")

    def slow(into: Path) -> None:
        making.set()
        made.wait(30)
        filled(into)

    with pytest.raises(EnvironmentFailed, match="no"):
        await asyncio.to_thread(cache.hold, key(1), fail, work)
    held = asyncio.create_task(asyncio.to_thread(cache.hold, key(2), slow, work))
    await asyncio.to_thread(making.wait, 30)
    cache.collect()
    assert {path.name for path in (tmp_path / "c/locks").iterdir()} == {key(2)}
    made.set()
    (await held).release()


async def test_what_is_used_stays_and_the_rest_goes(tmp_path: Path, work: Work) -> None:
    cache, other = Cache(tmp_path / "c", 0, SYSTEM), Cache(tmp_path / "c", 0, SYSTEM)
    mine = await asyncio.to_thread(cache.hold, key(1), filled, work)
    again = mine.again()
    theirs = await asyncio.to_thread(other.hold, key(2), filled, work)
    (await asyncio.to_thread(cache.hold, key(3), filled, work)).release()

    def left() -> set[str]:
        cache.collect()
        assert list((tmp_path / "c/tmp").iterdir()) == []
        found, locks = ({path.name for path in (tmp_path / "c" / name).iterdir()} for name in ("entries", "locks"))
        assert locks == found
        return found

    assert left() == {key(1), key(2)}
    mine.release()
    mine.release()
    assert left() == {key(1), key(2)}
    again.release()
    assert left() == {key(2)}
    theirs.release()
    assert left() == set()


def _half_made(directory: str, told: multiprocessing.synchronize.Event) -> None:
    def make(into: Path) -> None:
        (into / "half").write_text("half")
        told.set()
        threading.Event().wait()

    async def main() -> None:
        work = Work(Nobody())
        await asyncio.to_thread(Cache(Path(directory), MIB, SYSTEM).hold, KEY, make, work)

    asyncio.run(main())


async def test_a_maker_that_is_killed_is_no_obstacle(tmp_path: Path, work: Work) -> None:
    spawn = multiprocessing.get_context("spawn")
    told = spawn.Event()
    process = spawn.Process(target=_half_made, args=(str(tmp_path / "c"), told))
    process.start()
    assert await asyncio.to_thread(told.wait, 30)
    waiting = asyncio.create_task(asyncio.to_thread(Cache(tmp_path / "c", MIB, SYSTEM).hold, KEY, filled, work))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    held = await waiting
    assert sorted(path.name for path in held.path.iterdir()) == ["size", "tree"]
    assert list((tmp_path / "c/tmp").iterdir()) == []


async def test_who_waits_for_a_lock_can_be_stopped(tmp_path: Path, work: Work) -> None:
    cache = Cache(tmp_path / "c", MIB, SYSTEM)
    with (cache.directory("locks") / KEY).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = asyncio.create_task(asyncio.to_thread(cache.hold, KEY, filled, work))
        work.stop()
        with pytest.raises(Stopped):
            await waiting


async def test_a_cache_that_others_may_write_to_is_not_used(tmp_path: Path, work: Work) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    with pytest.raises(EnvironmentFailed, match="others may write"):
        await asyncio.to_thread(Cache(tmp_path / "c", MIB, SYSTEM).hold, KEY, filled, work)
    (tmp_path / "f").write_text("")
    with pytest.raises(EnvironmentFailed, match="cannot be used") as told:
        await asyncio.to_thread(Cache(tmp_path / "f", MIB, SYSTEM).hold, KEY, filled, work)
    assert "--cache-dir" in told.value.hint


# Builds and replicas with code from elsewhere.


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
def settings(control: ControlPlane, tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(worker_id="w1", control=(control.address,), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
async def session(control: ControlPlane, settings: WorkerSettings) -> AsyncIterator[WorkerSession]:
    worker = Worker(settings, SYSTEM)
    await worker.start()
    try:
        yield await control.session()
    finally:
        await worker.stop()


def config(place: str, **more: tuple[str, ...]) -> ApplicationConfig:
    env = RuntimeEnv(working_dir=place, **more)  # type: ignore[arg-type]
    return ApplicationConfig(name="served", import_path="served:app", runtime_env=env)


def spec(config: ApplicationConfig, replica_id: str = "r1") -> ReplicaSpec:
    return ReplicaSpec(
        replica_id=replica_id,
        application="served",
        deployment="Hello",
        config=config,
        settings=DeploymentSettings(),
    )


async def test_a_package_is_built_and_run(control: ControlPlane, session: WorkerSession, tmp_path: Path) -> None:
    made = config(control.upload(zip_of({"served.py": HELLO})), py_modules=(control.upload(tar_of(FILES)),))
    result = await session.build("b1", made)
    assert [deployment.config.name for deployment in result.deployments] == ["Hello"], result.failure
    assert len(control.downloads) == 2
    await session.assign(1, spec(made), spec(made, "r2"))
    await session.until_state("r1", ReplicaState.READY)
    await session.until_state("r2", ReplicaState.READY)
    assert session.states["r1"][:1] == [ReplicaState.PREPARING]
    # The cache has it: nobody asks for it again.
    assert len(control.downloads) == 2
    await session.assign(2)
    await session.until_state("r1", ReplicaState.STOPPED)


async def test_a_cache_may_be_named_from_the_current_directory_on(
    control: ControlPlane, settings: WorkerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = Worker(replace(settings, cache_dir="near"), SYSTEM)
    await worker.start()
    try:
        session = await control.session()
        made = config(control.upload(zip_of({"served.py": HELLO})), py_modules=(control.upload(tar_of(FILES)),))
        result = await session.build("b1", made)
        assert result.deployments, result.failure
        await session.assign(1, spec(made))
        await session.until_state("r1", ReplicaState.READY)
    finally:
        await worker.stop()


async def test_one_download_serves_all(control: ControlPlane, session: WorkerSession) -> None:
    made = config(control.upload(zip_of(FILES)))
    await session.assign(1, *(spec(made, f"r{i}") for i in range(4)))
    for i in range(4):
        await session.until_state(f"r{i}", ReplicaState.READY)
    assert len(control.downloads) == 1


async def test_a_package_that_is_not_there(control: ControlPlane, session: WorkerSession) -> None:
    made = config(f"package:sha256:{64 * 'a'}")
    result = await session.build("b1", made)
    assert "has no package" in result.failure.message
    assert (result.failure.field, result.failure.hint[:12]) == ("runtime_env.working_dir", "deploy again")
    await session.assign(1, spec(made))
    status = await session.until_state("r1", ReplicaState.BACKOFF)
    assert status.failed_starts == 1 and status.failure is not None
    assert status.failure.field == "runtime_env.working_dir"


async def test_bytes_with_another_digest_are_refused(control: ControlPlane, session: WorkerSession) -> None:
    place = control.upload(zip_of(FILES))
    control.packages[place.removeprefix("package:")] = zip_of({"served.py": "evil"})
    result = await session.build("b1", config(place))
    assert "digest is another" in result.failure.message


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (lambda: zip_of({"../evil.py": ""}), "'..'"),
        (lambda: tar_of({"l/evil.py": ""}, links={"l": "../.."}), "no directory"),
        (lambda: tar_of({}, links={"l": "/etc/passwd"}), "is a link to '/etc/passwd'"),
        (lambda: zip_of({"bomb": 32 * MIB * "0"}), "grow beyond 16 MiB"),
        (lambda: b"hello", "no archive of a known kind"),
    ],
)
async def test_a_hostile_archive_fails_the_build(
    control: ControlPlane, session: WorkerSession, tmp_path: Path, archive: Callable[[], bytes], why: str
) -> None:
    made = config("local:///", py_modules=(control.upload(archive()),))
    result = await session.build("b1", made)
    assert why in result.failure.message
    assert result.failure.field == "runtime_env.py_modules[0]"
    assert not list((tmp_path / "cache/entries").iterdir()) and not list((tmp_path / "cache/tmp").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


async def test_a_replica_that_is_not_wanted_is_not_prepared(control: ControlPlane, session: WorkerSession) -> None:
    hanging = asyncio.Event()
    control.before_download = hanging.wait
    made = config(control.upload(zip_of(FILES)))
    await session.assign(1, spec(made))
    status = await session.until_state("r1", ReplicaState.PREPARING)
    await session.until(lambda: "fetching package" in session.statuses["r1"].message)
    assert status.pid == 0
    await session.assign(2)
    await session.until_state("r1", ReplicaState.STOPPED)
    await session.assign(3, spec(made))
    await session.until_state("r1", ReplicaState.PREPARING)
    hanging.set()
    await session.until_state("r1", ReplicaState.READY)


async def test_a_build_that_is_cancelled_stops_fetching(control: ControlPlane, session: WorkerSession) -> None:
    hanging = asyncio.Event()
    control.before_download = hanging.wait
    made = config(control.upload(zip_of(FILES)))
    await session.ask_build("b1", made)
    while not control.downloads:
        await asyncio.sleep(0.01)
    await session.cancel_build("b1")
    await session.ask_build("b2", replace(made, name="other"))
    hanging.set()
    result = await session.until(lambda: session.results.get("b2"))
    assert result is not None and result.deployments and "b1" not in session.results


async def test_a_package_in_use_is_not_collected(control: ControlPlane, tmp_path: Path) -> None:
    settings = WorkerSettings(
        worker_id="w1", control=(control.address,), cache_dir=str(tmp_path / "cache"), cache_bytes_max=0
    )
    worker = Worker(settings, SYSTEM)
    await worker.start()
    try:
        session = await control.session()
        first = config(control.upload(zip_of(FILES)))
        await session.assign(1, spec(first))
        await session.until_state("r1", ReplicaState.READY)
        second = config(control.upload(zip_of({**FILES, "more": ""})))
        await session.assign(2, spec(first), spec(second, "r2"))
        await session.until_state("r2", ReplicaState.READY)
        entries = tmp_path / "cache/entries"
        assert {path.name for path in entries.iterdir()} == {
            f"archive-{hashlib.sha256(data).hexdigest()}" for data in control.packages.values()
        }
        await session.assign(3, spec(second, "r2"))
        await session.until_state("r1", ReplicaState.STOPPED)
        # The next piece of work tidies up.
        await session.build("b1", config(f"package:sha256:{64 * 'a'}"))
        while len(list(entries.iterdir())) != 1:
            await asyncio.sleep(0.01)
    finally:
        await worker.stop()


async def test_errors_name_files_as_they_were_packed(control: ControlPlane, session: WorkerSession) -> None:
    broken = {"served.py": "import shop.prices\n", "shop/prices.py": "def price():\n    return 1 / 0\n\n\nprice()\n"}
    result = await session.build("b1", config(control.upload(zip_of(broken))))
    assert result.failure.message == "ZeroDivisionError: division by zero (shop/prices.py:2)"
    assert 'File "served.py", line 1' in result.failure.details
    module = control.upload(zip_of({"shop/__init__.py": "", "shop/prices.py": broken["shop/prices.py"]}))
    result = await session.build(
        "b2", config(control.upload(zip_of({"served.py": "import shop.prices\n"})), py_modules=(module,))
    )
    assert result.failure.message == "ZeroDivisionError: division by zero (shop/prices.py:2)"
    assert "archive-" not in result.failure.details
