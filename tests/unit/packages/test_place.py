"""Places of code: the grammar, and what is refused at sight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model import RuntimeEnv
from mesh.packages.place import (
    CHARACTERS_MAX,
    Bucket,
    Download,
    Git,
    InPlace,
    Package,
    Place,
    PlaceError,
    archive_suffix,
    has_scheme,
    is_digest,
    parse,
    place_problems,
    places,
    render,
)

HEX = "0123456789abcdef" * 4
COMMIT = "89abcdef01" * 4


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/srv/app", InPlace("/srv/app")),
        ("local:///srv/a b", InPlace("/srv/a b")),
        (f"package:sha256:{HEX}", Package(f"sha256:{HEX}")),
        ("https://example.com/a/b.zip", Download("https://example.com/a/b.zip")),
        ("HTTPS://Example.COM:8443/B.TAR.GZ", Download("https://example.com:8443/B.TAR.GZ")),
        (f"https://example.com/b.whl#sha256={HEX.upper()}", Download("https://example.com/b.whl", HEX)),
        ("https://[::1]/b%20c.tgz", Download("https://[::1]/b%20c.tgz")),
        ("s3://bucket/dir/b.tar.xz", Bucket("s3", "bucket", "dir/b.tar.xz")),
        (f"gs://bucket/b.tar#sha256={HEX}", Bucket("gs", "bucket", "b.tar", HEX)),
        (f"git+https://example.com/team/repo.git@{COMMIT}", Git("https://example.com/team/repo.git", COMMIT)),
        (f"git+https://example.com/r@{HEX}#subdirectory=a/b", Git("https://example.com/r", HEX, "a/b")),
    ],
)
def test_each_form_is_read_and_written(text: str, place: Place) -> None:
    assert parse(text) == place
    assert parse(render(place)) == place


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "no place", "local:///"),
        ("app", "no place", "/DIRECTORY"),
        ("../app", "no place", "/DIRECTORY"),
        ("file:///etc/app.zip", "file: would read", "local:///"),
        ("FILE:///etc/app.zip", "file: would read", "local:///"),
        ("http://example.com/a.zip", "http: is neither", "https://"),
        ("ftp://example.com/a.zip", "ftp: is neither", "https://"),
        ("ssh://git@example.com/r", "ssh: needs a key", "git+https://"),
        (f"git+ssh://git@example.com/r@{COMMIT}", "needs a key", "git+https://"),
        (f"git+http://example.com/r@{COMMIT}", "neither", "git+https://"),
        ("gcs://bucket/a.zip", "gcs", "gs://"),
        ("data:text/plain,x", "no scheme", "https://"),
        ("local:srv/app", "absolute", "local:///"),
        ("local://host/app", "absolute", "local:///"),
        ("package:sha256:abc", "64 hex", "directory"),
        (f"package:sha256:{HEX.upper()}", "lower case", "directory"),
        (f"package:md5:{HEX}", "64 hex", "directory"),
        ("https://user:secret@example.com/a.zip", "password", "take it out"),
        ("https://token@example.com/a.zip", "password", "take it out"),
        (f"git+https://user:secret@example.com/r@{COMMIT}", "password", "take it out"),
        ("git+https://user:secret@example.com/r", "password", "take it out"),
        ("s3://key:secret@bucket/a.zip", "password", "take it out"),
        ("https://example.com/a.zip?sig=secret", "query", "s3://"),
        ("https://example.com/a", "archive", ".zip"),
        ("https://example.com/", "plain path", ""),
        ("https://example.com/a.zip/", "plain path", ""),
        ("https://example.com/.zip", "archive", ".whl"),
        ("https://example.com/../a.zip", "plain path", ""),
        ("https://example.com/%2e%2E/a.zip", "plain path", ""),
        ("https://example.com/a b.zip", "plain path", "%20"),
        ("https://example.com/a\\b.zip", "plain path", ""),
        ("https:///a.zip", "host", "https://HOST"),
        ("https:a.zip", "host", "https://HOST"),
        ("https://-x/a.zip", "host", ""),
        ("https://example.com:99999/a.zip", "host", ""),
        ("https://example.com/a.zip#sha256=12", "pins nothing", "64 hex"),
        ("https://example.com/a.zip#md5=12", "pins nothing", "64 hex"),
        ("git+https://example.com/r", "no commit", "rev-parse"),
        ("git+https://example.com/r@main", "no full commit", "rev-parse"),
        ("git+https://example.com/r@89abcde", "no full commit", "rev-parse"),
        (f"git+https://example.com/r@{COMMIT}#subdirectory=/a", "names no directory", "relative"),
        (f"git+https://example.com/r@{COMMIT}#subdirectory=a/../..", "names no directory", "relative"),
        (f"git+https://example.com/r@{COMMIT}#subdirectory=", "names no directory", "relative"),
        (f"git+https://example.com/r@{COMMIT}#egg=x", "names no directory", "relative"),
        (f"git+https://@{COMMIT}", "host", ""),
        ("s3://bucket", "bucket", "s3://BUCKET/FILE"),
        ("s3://B/a.zip", "bucket", "s3://BUCKET/FILE"),
        ("gs://bucket/../a.zip", "plain name", "gs://BUCKET/FILE"),
        ("gs://bucket/a.txt", "archive", ".zip"),
        ("/srv/a\x00b", "U+0000", "take it out"),
        ("/srv/a\nb", "U+000A", "take it out"),
        ("/srv/a\u202eb", "U+202E", "take it out"),
        ("/srv/" + "a" * CHARACTERS_MAX, "characters", "shorter"),
    ],
)
def test_each_refusal_says_why_and_what_to_write(text: str, message: str, hint: str) -> None:
    with pytest.raises(PlaceError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


@given(st.text(max_size=60) | st.from_regex(r"(git\+)?https://[a-z@:/.#?%=-]{0,40}\.zip", fullmatch=True))
def test_whatever_is_read_can_be_written_and_read_again(text: str) -> None:
    try:
        place = parse(text)
    except PlaceError:
        return
    assert parse(render(place)) == place


def test_the_places_of_an_environment_are_told_with_their_fields() -> None:
    env = RuntimeEnv(working_dir="http://x/a.zip", py_modules=("/m", "file:///x"))
    assert list(places(env)) == [
        ("working_dir", "http://x/a.zip"),
        ("py_modules[0]", "/m"),
        ("py_modules[1]", "file:///x"),
    ]
    fields = [problem.field for problem in place_problems(env, at="applications[0].runtime_env")]
    assert fields == ["applications[0].runtime_env.working_dir", "applications[0].runtime_env.py_modules[1]"]
    assert list(place_problems(RuntimeEnv(), at="x")) == []
    many = RuntimeEnv(py_modules=("/m",) * 51)
    assert [problem.field for problem in place_problems(many, at="x")] == ["x.py_modules"]


def test_archives_are_known_by_their_names() -> None:
    assert archive_suffix("a.tar.gz") == ".tar.gz"
    assert archive_suffix("A.ZIP") == ".zip"
    assert archive_suffix(".zip") == archive_suffix("a.gz") == archive_suffix("zip") == ""
    assert is_digest(f"sha256:{HEX}") and not is_digest(HEX) and not is_digest(f"sha256:{HEX}\n")


def test_paths_and_schemes_are_told_apart() -> None:
    assert has_scheme("file:x") and has_scheme("git+https://x") and has_scheme("a:b")
    assert not any(map(has_scheme, ("", ".", "app", "./a:b", "/a:b", "../a:b", "1:b")))
