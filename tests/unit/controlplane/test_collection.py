"""Which packages may go."""

from __future__ import annotations

from mesh import wire
from mesh.controlplane.collection import (
    ABANDONED_S,
    COUNTED_BYTES_MIN,
    KEEP_S,
    Garbage,
    garbage,
    named_in,
    unasked,
    used_bytes,
)
from mesh.controlplane.package_records import CHUNK_BYTES, StoredPackage, StoredUpload, chunk_keys
from mesh.controlplane.records import encode_application
from mesh.controlplane.validate import missing_packages, named_packages
from mesh.model import Application, ApplicationConfig, Plan, RuntimeEnv
from mesh.v1 import package_pb2

A, B, C, D, E = (f"sha256:{letter * 64}" for letter in "abcde")
NOW = 1_000_000.0


def config(working_dir: str, *py_modules: str) -> ApplicationConfig:
    return ApplicationConfig(runtime_env=RuntimeEnv(working_dir=working_dir, py_modules=py_modules))


def test_every_place_of_an_application_names_its_packages() -> None:
    application = Application(
        config=config(f"package:{A}", f"package:{B}"),
        plan=Plan(config=config(f"package:{C}")),
        serving=Plan(config=config("/srv", f"package:{D}")),
        superseded=(Plan(config=config(f"package:{E}")),),
    )
    assert named_in([encode_application(application)]) == {A, B, C, D, E}
    assert named_in([b"", b"package:sha256:abc", f"sha256:{A}".encode()]) == set()


def test_only_what_is_old_and_unnamed_goes() -> None:
    packages = {
        A: StoredPackage(1, "a", NOW - KEEP_S),
        B: StoredPackage(1, "b", NOW - KEEP_S + 1),
        C: StoredPackage(1, "c", NOW - 2 * KEEP_S),
        D: StoredPackage(1, "d", NOW + 100),
    }
    assert unasked(packages, NOW) == (C, A)
    assert garbage(packages, {}, {A}, NOW) == Garbage((C,), ())
    assert garbage(packages, {}, {A, C}, NOW) == Garbage()


def test_uploads_go_when_they_are_abandoned_or_old() -> None:
    uploads = {
        "new": StoredUpload(A, 1, NOW - ABANDONED_S + 1),
        "old": StoredUpload(A, 1, NOW - ABANDONED_S),
        "broken": StoredUpload(A, 1, NOW, abandoned=True),
    }
    assert garbage({}, uploads, (), NOW) == Garbage((), ("broken", "old"))


def test_small_packages_count_as_larger_ones() -> None:
    packages, uploads = {A: StoredPackage(1), B: StoredPackage(10 * COUNTED_BYTES_MIN)}, {"u": StoredUpload(C, 5)}
    assert used_bytes(packages, uploads) == 12 * COUNTED_BYTES_MIN


def test_chunks_and_records() -> None:
    assert [len(chunk_keys("u", n)) for n in (1, CHUNK_BYTES, CHUNK_BYTES + 1)] == [1, 1, 2]
    assert list(chunk_keys("u", 20 * CHUNK_BYTES)) == sorted(chunk_keys("u", 20 * CHUNK_BYTES))
    package, upload = StoredPackage(5, "u", 1.5), StoredUpload(A, 5, 1.5, abandoned=True)
    assert wire.from_proto(wire.to_proto(package, package_pb2.StoredPackage), StoredPackage) == package
    assert wire.from_proto(wire.to_proto(upload, package_pb2.StoredUpload), StoredUpload) == upload


def test_a_missing_package_is_told_at_each_field_that_names_it() -> None:
    envs = [RuntimeEnv(), RuntimeEnv(f"package:{A}", (f"package:{B}", "/x", f"package:{A}", "package:sha256:no"))]
    named = named_packages(envs)
    at = "applications[1].runtime_env"
    assert named == {f"{at}.working_dir": A, f"{at}.py_modules[0]": B, f"{at}.py_modules[2]": A}
    problems = missing_packages(named, {A})
    assert [problem.field for problem in problems] == [f"{at}.working_dir", f"{at}.py_modules[2]"]
    assert A in problems[0].message and "deploy" in problems[0].hint
    assert missing_packages(named, set()) == ()
