"""Places of code, as a runtime environment names them: text to a value, and back.

Owns the grammar (the comment of the message RuntimeEnv has it) and what is refused at sight: other schemes,
credentials, marks that can move. Never looks whether something is there, nor where a name leads: private addresses are
refused by whoever connects. Pure. Called by the config file, by `deploy`, by the control plane's validation and by
workers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mesh.errors import MeshError, Problem
from mesh.model import RuntimeEnv

CHARACTERS_MAX = 2048
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".whl")
PY_MODULES_MAX = 50

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_HOST = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?"
)
_URL_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_WRONG_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
_ARCHIVES = ", ".join(ARCHIVE_SUFFIXES[:-1]) + " or " + ARCHIVE_SUFFIXES[-1]
_FORMS = "write /DIRECTORY, local:///DIRECTORY, https://…, git+https://…@COMMIT, s3://… or gs://…"
_SAFE_GIT = "write git+https://HOST/REPOSITORY@COMMIT"
_REFUSED = {
    "file": ("would read a file of the worker", "write local:///DIRECTORY for a directory that is on every worker"),
    "http": ("is neither private nor authentic: anybody on the way can change the code", "write https://…"),
    "ftp": ("is neither private nor authentic: anybody on the way can change the code", "write https://…"),
    "git": ("is neither private nor authentic: anybody on the way can change the code", _SAFE_GIT),
    "git+http": ("is neither private nor authentic: anybody on the way can change the code", _SAFE_GIT),
    "ssh": ("needs a key, and workers have none", _SAFE_GIT),
    "git+ssh": ("needs a key, and workers have none", _SAFE_GIT),
    "git+file": ("would read a file of the worker", _SAFE_GIT),
    "gcs": ("is not how it is written here", "write gs://BUCKET/FILE"),
}
"""Why each of these schemes is refused, and what to write instead."""


class PlaceError(MeshError):
    """A text names no place that code may come from."""


class PlaceRefused(PlaceError):
    """A text names a place, but by a way that is not safe."""


@dataclass(frozen=True, slots=True)
class InPlace:
    """A directory on the workers, used as it lies there. `path` is absolute."""

    path: str


@dataclass(frozen=True, slots=True)
class Package:
    """Uploaded code. `digest` is "sha256:" and 64 hex digits."""

    digest: str


@dataclass(frozen=True, slots=True)
class Download:
    """An archive or wheel at an https `url`, without fragment. `sha256` has 64 hex digits; "": not pinned."""

    url: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Bucket:
    """An archive or wheel in object storage. `scheme` is "s3" or "gs"; `sha256` is as in Download."""

    scheme: str
    bucket: str
    file: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Git:
    """A commit of a repository at an https `url`. `commit` has 40 or 64 hex digits; `subdirectory` "": all of it."""

    url: str
    commit: str
    subdirectory: str = ""


Place = InPlace | Package | Download | Bucket | Git


def parse(text: str) -> Place:
    """Return the place that a text names. Raises PlaceError."""
    if len(text) > CHARACTERS_MAX:
        raise PlaceError(f"has {len(text)} characters; {CHARACTERS_MAX} are allowed", hint="name a shorter place")
    if (wrong := next((c for c in text if unicodedata.category(c) in _WRONG_CATEGORIES), None)) is not None:
        raise PlaceError(f"has the character U+{ord(wrong):04X}, which cannot be seen", hint="take it out")
    if text.startswith("/"):
        return InPlace(text)
    found = _SCHEME.match(text)
    if found is None:
        raise PlaceError(f"{_shown(text)} is no place that workers can reach", hint=_FORMS)
    scheme, rest = found[1].lower(), text[found.end() :]
    if scheme in _REFUSED:
        why, hint = _REFUSED[scheme]
        raise PlaceRefused(f"{scheme}: {why}", hint=hint)
    parser = _PARSERS.get(scheme)
    if parser is None:
        raise PlaceError(f"{_shown(scheme)} is no scheme that code comes by", hint=_FORMS)
    return parser(scheme, rest)


def render(place: Place) -> str:
    """Return the text of a place, which `parse` reads back to the same value."""
    match place:
        case InPlace(path):
            return f"local://{path}"
        case Package(digest):
            return f"package:{digest}"
        case Download(url, sha256):
            return url + _pin(sha256)
        case Bucket(scheme, bucket, file, sha256):
            return f"{scheme}://{bucket}/{file}{_pin(sha256)}"
        case Git(url, commit, subdirectory):
            return f"git+{url}@{commit}" + (f"#subdirectory={subdirectory}" if subdirectory else "")


def has_scheme(text: str) -> bool:
    """Whether a text starts with a scheme, wrong or right, and so is no path. "./a:b" is how such a path is written."""
    return _SCHEME.match(text) is not None


def is_digest(text: str) -> bool:
    """Whether a text is the digest of a package: "sha256:" and 64 hex digits in lower case."""
    return _DIGEST.fullmatch(text) is not None


def archive_suffix(name: str) -> str:
    """Return which of ARCHIVE_SUFFIXES a file's name ends with, whatever its case; "": none, or there is no more."""
    lower = name.lower()
    return next((suffix for suffix in ARCHIVE_SUFFIXES if lower.endswith(suffix) and len(lower) > len(suffix)), "")


def places(env: RuntimeEnv) -> Iterator[tuple[str, str]]:
    """Yield each place of a runtime environment that is set: its field there, such as "py_modules[1]", and its text."""
    if env.working_dir:
        yield "working_dir", env.working_dir
    for i, text in enumerate(env.py_modules):
        yield f"py_modules[{i}]", text


def is_in_place(env: RuntimeEnv) -> bool:
    """Whether all of an environment is there on the workers: nothing has to be fetched or installed."""
    if env.pip:
        return False
    try:
        return all(isinstance(parse(text), InPlace) for _, text in places(env))
    except PlaceError:
        return False


def place_problems(env: RuntimeEnv, *, at: str) -> Iterator[Problem]:
    """Yield what is wrong with the places of a runtime environment; `at` is its path in the config."""
    if len(env.py_modules) > PY_MODULES_MAX:
        text = f"has {len(env.py_modules)} items; {PY_MODULES_MAX} are allowed"
        yield Problem(f"{at}.py_modules", text, "put several modules into one directory")
        return
    for field, text in places(env):
        try:
            parse(text)
        except PlaceError as error:
            yield Problem(f"{at}.{field}", error.message, error.hint, refused=isinstance(error, PlaceRefused))


def _local(scheme: str, rest: str) -> InPlace:
    if not rest.startswith("///"):
        raise PlaceError("local: is followed by an absolute path", hint="write local:///DIRECTORY")
    return InPlace(rest.removeprefix("//"))


def _package(scheme: str, rest: str) -> Package:
    if not is_digest(rest):
        hint = "name the directory, and meshctl deploy makes and uploads the package"
        raise PlaceError("package: is followed by sha256: and 64 hex digits in lower case", hint=hint)
    return Package(rest)


def _download(scheme: str, rest: str) -> Download:
    bare, sha256 = _pinned(rest)
    url = _url(bare)
    _check_archive(url)
    return Download(url, sha256)


def _bucket(scheme: str, rest: str) -> Bucket:
    bare, sha256 = _pinned(rest)
    bucket, _, file = bare.removeprefix("//").partition("/")
    form = f"write {scheme}://BUCKET/FILE"
    if not bare.startswith("//") or not _BUCKET.fullmatch(bucket) or not file:
        if "@" in bucket:
            raise _has_credentials()
        raise PlaceError(f"{scheme}: is followed by a bucket and a file in it", hint=form)
    if "?" in file or "\\" in file or not _is_inside(file):
        raise PlaceError(f"{_shown(file)} is no plain name of a file in a bucket", hint=form)
    _check_archive(file)
    return Bucket(scheme, bucket, file, sha256)


def _git(scheme: str, rest: str) -> Git:
    bare, mark, fragment = rest.partition("#")
    url, at, commit = bare.rpartition("@")
    if not at or "/" in commit:
        # Without a commit the last "@", if there is one, is that of credentials.
        _url(bare)
        raise PlaceError(
            "names no commit", hint="write git+https://HOST/REPOSITORY@COMMIT; git rev-parse HEAD tells it"
        )
    if not _COMMIT.fullmatch(commit.lower()):
        text = f"{_shown(commit)} is no full commit of 40 or 64 hex digits; branches, tags and short forms can move"
        raise PlaceError(text, hint="write what git rev-parse HEAD says")
    subdirectory = fragment.removeprefix("subdirectory=")
    if mark and (subdirectory == fragment or not _is_inside(subdirectory) or "\\" in subdirectory):
        hint = "write #subdirectory=PATH with a relative path without '..', or nothing"
        raise PlaceError(f"{_shown('#' + fragment)} names no directory of the repository", hint=hint)
    return Git(_url(url), commit.lower(), subdirectory)


_PARSERS: dict[str, Callable[[str, str], Place]] = {
    "local": _local,
    "package": _package,
    "https": _download,
    "s3": _bucket,
    "gs": _bucket,
    "git+https": _git,
}


def _url(rest: str) -> str:
    """Return the https URL whose text after "https:" is `rest`. Raises PlaceError."""
    authority, slash, path = rest.removeprefix("//").partition("/")
    if "@" in authority:
        raise _has_credentials()
    host = authority.lower()
    found = _HOST.fullmatch(host)
    if not rest.startswith("//") or found is None or int(found[1] or 443) > 65_535:
        raise PlaceError(f"{_shown(authority)} is no host", hint="write https://HOST/PATH or https://HOST:PORT/PATH")
    if "?" in path:
        raise PlaceError(
            "has a query: it would be stored and shown, and often holds a credential",
            hint="name a URL without one, or a file in s3:// or gs://, for which workers have credentials of their own",
        )
    if not _URL_PATH.fullmatch(slash + path) or not _is_inside(path):
        raise PlaceError(f"{_shown('/' + path)} is no plain path of a URL", hint="encode other characters, as in %20")
    return f"https://{host}/{path}"


def _pinned(rest: str) -> tuple[str, str]:
    """Split the pin of a digest off. Raises PlaceError."""
    bare, mark, fragment = rest.partition("#")
    if not mark:
        return bare, ""
    found = _SHA256.fullmatch(fragment)
    if found is None:
        raise PlaceError(f"{_shown('#' + fragment)} pins nothing", hint="write #sha256= and 64 hex digits, or nothing")
    return bare, found[1].lower()


def _check_archive(name: str) -> None:
    file = name.rpartition("/")[2]
    if not archive_suffix(file):
        raise PlaceError(f"{_shown(file)} is not known to be an archive", hint=f"name a file that ends in {_ARCHIVES}")


def _is_inside(path: str) -> bool:
    """Whether a path is relative, names something in each part and never goes up."""
    return all(part.replace("%2e", ".").replace("%2E", ".") not in ("", ".", "..") for part in path.split("/"))


def _has_credentials() -> PlaceError:
    # What stands there is not repeated: it is a secret.
    text = "has a user name or password: it would be stored and shown"
    return PlaceError(text, hint="take it out; give workers what they need by the environment or a file")


def _pin(sha256: str) -> str:
    return f"#sha256={sha256}" if sha256 else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
