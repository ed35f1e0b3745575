"""Code from https URLs, git repositories and object stores: a server on loopback, reached by real clients."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from mesh.clock import SYSTEM
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, ReplicaState, RuntimeEnv
from mesh.settings import WorkerSettings
from mesh.v1.worker_service_pb2 import BuildResult
from mesh.worker.environments import web
from mesh.worker.server import Worker
from tests.support.archives import tar_of, zip_of
from tests.support.certificates import Authority
from tests.support.scripted_control_plane import ControlPlane, WorkerSession
from tests.support.web_places import WebPlaces
from tests.support.wheels import wheel

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
ZIP = zip_of(FILES)
MIB = 1024 * 1024


@pytest.fixture
def web_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebPlaces]:
    directory = tmp_path / "web"
    directory.mkdir()
    with WebPlaces(directory) as places:
        monkeypatch.setenv("SSL_CERT_FILE", str(places.authority.cert))
        monkeypatch.setenv("GIT_SSL_CAINFO", str(places.authority.cert))
        yield places


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *, private: bool = True) -> AsyncIterator[WorkerSession]:
    async with ControlPlane() as control:
        settings = WorkerSettings(worker_id="w1", control=(control.address,), cache_dir=str(tmp_path / "cache"))
        worker = Worker(replace(settings, allow_private_urls=private), SYSTEM)
        await worker.start()
        try:
            yield await control.session()
        finally:
            await worker.stop()


@pytest.fixture
async def session(tmp_path: Path, web_places: WebPlaces) -> AsyncIterator[WorkerSession]:
    async with running(tmp_path) as session:
        yield session


def config(place: str, *modules: str) -> ApplicationConfig:
    env = RuntimeEnv(working_dir=place, py_modules=modules)
    return ApplicationConfig(name="served", import_path="served:app", runtime_env=env)


def refused(result: BuildResult, why: str, field: str = "runtime_env.working_dir") -> None:
    assert why in result.failure.message, result
    assert result.failure.field == field
    assert result.failure.hint


def kept(tmp_path: Path) -> list[str]:
    """Names of what the cache has; nothing half made is in it."""
    assert not list((tmp_path / "cache/tmp").glob("*/*"))
    return sorted(path.name for path in (tmp_path / "cache/entries").iterdir())


# https.


@pytest.mark.parametrize("name", ["app.zip", "app.tar.gz"])
async def test_an_archive_is_fetched_pinned_and_run(
    session: WorkerSession, web_places: WebPlaces, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data = ZIP if name.endswith("zip") else tar_of(FILES)
    url, digest = web_places.put(name, data), hashlib.sha256(data).hexdigest()
    result = await session.build("b1", config(url))
    assert result.deployments, result.failure
    assert result.runtime_env.working_dir == f"{url}#sha256={digest}"
    assert f"pin it with #sha256={digest}" in caplog.text
    pinned = config(result.runtime_env.working_dir)
    web_places.answers.clear()
    spec = ReplicaSpec("r1", "served", "Hello", config=pinned, settings=DeploymentSettings())
    await session.assign(1, spec)
    await session.until_state("r1", ReplicaState.READY)
    again = await session.build("b2", pinned)
    assert again.deployments and not again.HasField("runtime_env")
    assert len(web_places.asked) == 1


async def test_another_sha256_is_refused(session: WorkerSession, web_places: WebPlaces, tmp_path: Path) -> None:
    url = web_places.put("app.zip", ZIP)
    refused(await session.build("b1", config(f"{url}#sha256={64 * '0'}")), "another sha256 than the one that is pinned")
    assert kept(tmp_path) == []


async def test_a_wheel_is_a_module(session: WorkerSession, web_places: WebPlaces, tmp_path: Path) -> None:
    path = wheel(tmp_path, "greeting", "1.0", source="TEXT = 'wheel'\n")
    place = web_places.put("greeting-1.0-py3-none-any.whl", path.read_bytes())
    app = web_places.put("app.zip", zip_of({"served.py": HELLO}))
    result = await session.build("b1", config(app, place))
    assert result.deployments, result.failure
    assert "#sha256=" in result.runtime_env.py_modules[0]


async def test_the_one_directory_of_a_forge_is_seen_through(session: WorkerSession, web_places: WebPlaces) -> None:
    url = web_places.put("app.zip", zip_of({f"repo-0123abc/{name}": text for name, text in FILES.items()}))
    assert (await session.build("b1", config(url))).deployments
    url = web_places.put(
        "pkg.zip",
        zip_of({"pkg/served.py": HELLO.replace("greeting", "pkg.greeting"), **{"pkg/greeting.py": "TEXT = 1\n"}}),
    )
    made = replace(config(url), import_path="pkg.served:app")
    assert (await session.build("b2", made)).deployments, "a package is left where it is"


async def test_redirects_are_followed_within_https(session: WorkerSession, web_places: WebPlaces) -> None:
    there = web_places.put("there.zip", ZIP)
    web_places.redirect("two.zip", there)
    assert (await session.build("b1", config(web_places.redirect("one.zip", "/two.zip")))).deployments
    for i, (to, why) in enumerate(
        (
            (f"http://localhost:{web_places.port}/there.zip", "not https"),
            ("file:///etc/passwd", "not https"),
            (there.replace("https://", "https://user:secret@"), "credentials"),
        )
    ):
        result = await session.build(f"c{i}", config(web_places.redirect("away.zip", to)))
        refused(result, why)
        assert "secret" not in result.failure.message
    refused(await session.build("loop", config(web_places.redirect("loop.zip", "/loop.zip"))), "redirects more than 5")


async def test_private_addresses_are_refused(tmp_path: Path, web_places: WebPlaces) -> None:
    url, (repository, commit) = web_places.put("app.zip", ZIP), web_places.repository("app", FILES)
    async with running(tmp_path, private=False) as session:
        for i, place in enumerate(
            (
                url,
                url.replace("localhost", "127.0.0.1"),
                "https://169.254.169.254/latest/app.zip",
                "https://[::ffff:10.0.0.1]/app.zip",
                "https://[64:ff9b::a9fe:a9fe]/app.zip",
                "https://0x7f.1/app.zip",
                f"git+{repository}@{commit}",
            )
        ):
            result = await session.build(f"b{i}", config(place))
            refused(result, "not on the public internet")
            assert "--allow-private-urls" in result.failure.hint
    assert web_places.asked == []


async def test_each_redirect_is_checked_anew(
    tmp_path: Path, web_places: WebPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host counts as public here; where it leads does not."""
    from mesh.worker.environments import resolver

    monkeypatch.setattr(resolver, "is_public", lambda address: address == "127.0.0.1")
    async with running(tmp_path, private=False) as session:
        result = await session.build("b1", config(web_places.redirect("a.zip", "https://169.254.169.254/a.zip")))
        refused(result, "'169.254.169.254' is not on the public internet")


async def test_certificates_are_verified(
    tmp_path: Path, web_places: WebPlaces, session: WorkerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web_places.put("app.zip", ZIP)
    other = url.replace("localhost", "127.1")
    refused(await session.build("b1", config(other)), "cannot be connected to: its certificate is for another host")
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority.create(tmp_path / "other").cert))
    refused(await session.build("b2", config(url)), "cannot be connected to: ")
    assert not web_places.asked


async def test_what_a_server_may_do_wrong(
    session: WorkerSession, web_places: WebPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(await session.build("b1", config(f"{web_places.base}/absent.zip")), "status 404")
    web_places.answers["/short.zip"] = (200, {"Content-Length": "100000"}, ZIP)
    refused(await session.build("b2", config(f"{web_places.base}/short.zip")), "")
    refused(await session.build("b3", config("https://localhost:1/a.zip")), "cannot be connected to")
    refused(await session.build("b4", config("https://no-such-host.invalid/a.zip")), "cannot be found")
    monkeypatch.setattr(web, "PACKAGE_BYTES_MAX", MIB)
    large = web_places.put("large.zip", bytes(2 * MIB))
    refused(await session.build("b5", config(large)), "has more than")


async def test_who_waits_for_a_server_that_says_nothing_can_leave(
    session: WorkerSession, web_places: WebPlaces
) -> None:
    asked, go = threading.Event(), threading.Event()

    def hang() -> tuple[int, dict[str, str], bytes]:
        asked.set()
        go.wait(30)
        return 200, {}, ZIP

    web_places.answers["/hang.zip"] = hang
    made = config(f"{web_places.base}/hang.zip")
    await session.assign(1, ReplicaSpec("r1", "served", "Hello", config=made, settings=DeploymentSettings()))
    await session.until(lambda: asked.is_set() and "fetching" in session.statuses["r1"].message)
    await session.assign(2)
    await session.until_state("r1", ReplicaState.STOPPED)
    # The same again does not wait for what was given up.
    web_places.put("hang.zip", ZIP)
    assert (await session.build("b1", made)).deployments
    go.set()


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (lambda: zip_of({"../evil.py": ""}), "'..'"),
        (lambda: tar_of({}, links={"l": "/etc/passwd"}), "is a link to '/etc/passwd'"),
        (lambda: zip_of({"bomb": 32 * MIB * "0"}), "grow beyond 16 MiB"),
    ],
)
async def test_hostile_archives_are_refused(
    session: WorkerSession, web_places: WebPlaces, tmp_path: Path, archive: Callable[[], bytes], why: str
) -> None:
    name = "app.zip" if why != "is a link to '/etc/passwd'" else "app.tgz"
    refused(await session.build("b1", config(web_places.put(name, archive()))), why)
    assert kept(tmp_path) == []


# git.


async def test_a_commit_is_fetched_and_run(session: WorkerSession, web_places: WebPlaces, tmp_path: Path) -> None:
    hook = {".gitattributes": "* filter=evil\n", ".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = file:///etc\n'}
    url, commit = web_places.repository("app", {**FILES, **hook, "sub/dir/served.py": "import absent\n"})
    result = await session.build("b1", config(f"git+{url}@{commit}"))
    assert result.deployments, result.failure
    assert not result.HasField("runtime_env"), "a commit is a pin"
    asked = len(web_places.asked)
    assert (await session.build("b2", config(f"git+{url}@{commit}"))).deployments
    assert len(web_places.asked) == asked
    result = await session.build("b3", config(f"git+{url}@{commit}#subdirectory=sub/dir"))
    assert "absent" in result.failure.message
    (entry, _) = [path for path in (tmp_path / "cache/entries").iterdir() if path.name.startswith("git-")]
    assert {path.name for path in entry.iterdir()} == {"tree", "size"}


async def test_commits_that_cannot_be_had(
    session: WorkerSession, web_places: WebPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, commit = web_places.repository("app", FILES)
    refused(await session.build("b1", config(f"git+{url}@{40 * '0'}")), "cannot be fetched")
    refused(await session.build("b2", config(f"git+{url}-absent@{commit}")), "cannot be fetched")
    refused(await session.build("b3", config(f"git+{url}@{commit}#subdirectory=absent")), "cannot be fetched")
    web_places.redirect("moved/info/refs?service=git-upload-pack", f"{url}/info/refs?service=git-upload-pack")
    refused(await session.build("b4", config(f"git+{web_places.base}/moved@{commit}")), "cannot be fetched")
    monkeypatch.setenv("PATH", "/nowhere")
    result = await session.build("b5", config(f"git+{url}@{'1' * 40}"))
    refused(result, "has no git")


async def test_links_in_a_repository_do_not_leave_it(session: WorkerSession, web_places: WebPlaces) -> None:
    url, commit = web_places.repository("app", FILES, links={"evil": "/etc/passwd"})
    refused(await session.build("b1", config(f"git+{url}@{commit}")), "'evil' is a link to '/etc/passwd'")


# Object stores.


async def test_a_file_of_a_bucket(session: WorkerSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is fsspec's own, of files: what it takes to sign requests to a real one is not ours."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "app.zip").write_bytes(ZIP)
    real = fsspec.filesystem
    asked = []

    def filesystem(protocol: str) -> object:
        asked.append(protocol)
        return real("dir", path=str(tmp_path), fs=real("file"))

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    digest = hashlib.sha256(ZIP).hexdigest()
    result = await session.build("b1", config("s3://bucket/app.zip"))
    assert result.deployments, result.failure
    assert result.runtime_env.working_dir == f"s3://bucket/app.zip#sha256={digest}"
    refused(await session.build("b2", config(f"gs://bucket/app.zip#sha256={64 * '0'}")), "another sha256")
    refused(await session.build("b3", config("s3://bucket/absent.zip")), "cannot be read: FileNotFoundError")
    assert asked == ["s3", "gcs", "s3"]


async def test_a_store_whose_extra_is_missing(session: WorkerSession) -> None:
    result = await session.build("b1", config("s3://bucket/app.zip"))
    refused(result, "nothing to read s3:// with")
    assert "mesh-serve[s3]" in result.failure.hint
