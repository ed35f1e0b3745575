"""Packing: the same bytes for the same content, nothing from outside, and bounds that say where the weight is."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.packages import pack as packing
from mesh.packages import tree
from mesh.packages.pack import pack
from mesh.packages.tree import PackError

Files = dict[str, tuple[bytes, bool]]


def write(top: Path, files: Files, *, times: float = 0.0) -> Path:
    for name, (content, executable) in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o700 if executable else 0o600)
        if times:
            os.utime(path, (times, times))
    return top


def texts(top: Path, **files: str) -> Path:
    return write(top, {name.replace("__", "/"): (text.encode(), False) for name, text in files.items()})


def packed(source: Path, *, module: bool = False) -> tuple[str, bytes]:
    found = pack(source, module=module)
    data = found.file.read()
    found.close()
    assert (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}") == (found.size, found.digest)
    return found.digest, data


def contents(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {i.filename: (archive.read(i), bool((i.external_attr >> 16) & 0o100)) for i in archive.infolist()}


def names(data: bytes) -> list[str]:
    return list(contents(data))


_NAMES = st.text("abcdé中 .-_~", min_size=1, max_size=6).filter(
    lambda n: n not in (".", "..") and not n.startswith(".#")
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> Files:
    found: Files = {}
    for path in draw(st.lists(_PATHS, min_size=1, max_size=8)):
        parents = {str(parent) for parent in Path(path).parents}
        if path not in found and not parents & set(found) and not any(other.startswith(path + "/") for other in found):
            found[path] = (draw(st.binary(max_size=200)), draw(st.booleans()))
    return found


@settings(max_examples=50, deadline=None)
@given(trees())
def test_any_tree_is_packed_to_the_same_bytes_and_back(files: Files) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        digest, data = packed(write(Path(one), files, times=1e9))
        assert packed(write(Path(two), dict(reversed(files.items()))))[0] == digest
        assert contents(data) == files
        assert names(data) == sorted(files)


def test_modes_and_times_are_normal_and_changes_are_seen(tmp_path: Path) -> None:
    write(tmp_path, {"run.sh": (b"#!", True), "m.py": (b"x", False)})
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    digest, data = packed(tmp_path)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        modes = {i.filename: stat.filemode(i.external_attr >> 16) for i in archive.infolist()}
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert modes == {"empty/inner/": "drwxr-xr-x", "m.py": "-rw-r--r--", "run.sh": "-rwxr-xr-x"}
    (tmp_path / "m.py").chmod(0o666)
    os.utime(tmp_path / "m.py", (1, 1))
    assert packed(tmp_path)[0] == digest
    (tmp_path / "m.py").write_text("y")
    assert packed(tmp_path)[0] != digest


def test_ignore_files_count_at_every_level(tmp_path: Path) -> None:
    texts(tmp_path, a__b__x="1", a__b__y="1", z="1", **{"a__.venv__lib": "1", "m.pyc": "1", ".git__config": "1"})
    texts(tmp_path, **{".gitignore": "y\nz\n", ".meshignore": "!z\n", "a__.meshignore": "/b/x\n", "other__y": "1"})
    texts(tmp_path, **{"env__pyvenv.cfg": "1", "env__lib": "1"})
    assert names(packed(tmp_path)[1]) == ["a/b/", "other/", "z"]


def test_links_are_followed_inside_and_refused_when_they_leave(tmp_path: Path) -> None:
    top = texts(tmp_path / "top", lib__m="code")
    (top / "link").symlink_to("lib/m")
    (top / "alias").symlink_to("lib")
    assert contents(packed(top)[1]) == dict.fromkeys(("alias/m", "lib/m", "link"), (b"code", False))
    texts(tmp_path, secret="s", **{"top-secret__s": "s"})
    for target in ("../secret", str(tmp_path / "secret"), "..", "/etc/passwd", "../top-secret/s"):
        (top / "out").symlink_to(target)
        with pytest.raises(PackError, match="out is a link out of the directory"):
            pack(top)
        (top / ".meshignore").write_text("/out")
        assert "out" not in names(packed(top)[1])
        (top / ".meshignore").unlink()
        (top / "out").unlink()


def test_links_that_lead_nowhere_or_round_are_refused(tmp_path: Path) -> None:
    top = texts(tmp_path / "top", lib__m="code")
    link = top / "lib" / "link"
    for target, why in (("gone", "nothing"), ("../lib", "it is in"), ("..", "it is in"), ("link", "cannot be read")):
        link.symlink_to(target)
        with pytest.raises(PackError, match=f"lib/link/? .*{why}") as caught:
            pack(top)
        assert ".meshignore" in caught.value.hint
        link.unlink()


def test_what_is_no_file_is_refused_by_its_path(tmp_path: Path) -> None:
    top = texts(tmp_path / "top", m="1")
    os.mkfifo(top / "pipe")
    with pytest.raises(PackError, match="pipe is a named pipe"):
        pack(top)
    (top / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(top)  # a socket's path is short
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        with pytest.raises(PackError, match="sock is a socket"):
            pack(top)


def test_names_that_no_archive_can_hold_are_refused(tmp_path: Path) -> None:
    for name in (b"a\\b", b"a\nb", b"a\xffb", b"d\x01"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.close(os.open(path, os.O_CREAT))
        with pytest.raises(PackError, match="name"):
            pack(tmp_path)
        os.unlink(path)


def test_bounds_say_where_the_weight_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"data/{i}": (b"x" * 1000, False) for i in range(30)} | {"m.py": (b"1", False)})
    write(tmp_path, {"data/big.bin": (os.urandom(200_000), False)})
    monkeypatch.setattr(tree, "FILES_MAX", 20)
    with pytest.raises(PackError, match=r"has 32 files; 20 are allowed; 31 of them are in data/") as caught:
        pack(tmp_path)
    assert f"{tmp_path}/.meshignore" in caught.value.hint
    monkeypatch.undo()
    monkeypatch.setattr(tree, "BYTES_MAX", 100_000)
    with pytest.raises(PackError, match=r"most is in data/ \(0.2 MiB\); the largest file is data/big.bin"):
        pack(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(packing, "PACKAGE_BYTES_MAX", 100_000)
    with pytest.raises(PackError, match=r"too large: .*data/big.bin") as caught:
        pack(tmp_path)
    assert ".meshignore" in caught.value.hint
    monkeypatch.undo()
    monkeypatch.setattr(tree, "DEPTH_MAX", 3)
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    with pytest.raises(PackError, match="directories deep"):
        pack(tmp_path)


def test_a_file_that_changes_while_it_is_packed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"log": (b"x" * 1000, False)})
    read = packing._read

    for change in (
        lambda: (tmp_path / "log").open("ab").write(b"more"),
        lambda: os.truncate(tmp_path / "log", 10),
        lambda: os.utime(tmp_path / "log", (1, 1)),
    ):

        def changing(source: io.FileIO, name: str) -> bytes:
            chunk = read(source, name)
            if chunk:
                change()  # noqa: B023
            return chunk

        monkeypatch.setattr(packing, "_read", changing)
        with pytest.raises(PackError, match="log changed while it was packed"):
            pack(tmp_path)
        monkeypatch.setattr(packing, "_read", read)
    gone = tree.entries(tmp_path)
    (tmp_path / "log").unlink()
    monkeypatch.setattr(packing, "entries", lambda top, without: gone)
    with pytest.raises(PackError, match="changed"):
        pack(tmp_path)


def test_a_module_keeps_its_name_and_a_collection_of_modules_does_not(tmp_path: Path) -> None:
    texts(tmp_path, **{"pkg____init__.py": "", "lib__one.py": ""})
    (tmp_path / "pkg" / "__init__.py").write_text("")
    assert "pkg/__init__.py" in names(packed(tmp_path / "pkg", module=True)[1])
    assert "__init__.py" in names(packed(tmp_path / "pkg")[1])
    assert names(packed(tmp_path / "lib", module=True)[1]) == ["one.py"]


def test_wheels_and_zips_are_packed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "m-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("m.py", "x = 1")
    assert packed(wheel, module=True)[1] == wheel.read_bytes()
    monkeypatch.setattr(packing, "PACKAGE_BYTES_MAX", 10)
    with pytest.raises(PackError, match="too large"):
        pack(wheel)
    monkeypatch.undo()
    wheel.write_text("no archive")
    with pytest.raises(PackError, match="no wheel"):
        pack(wheel)


def test_what_is_not_there_or_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="does not exist"):
        pack(tmp_path / "gone")
    with pytest.raises(PackError, match="nothing to pack"):
        pack(tmp_path)
    texts(tmp_path, **{"m.txt": "1"})
    with pytest.raises(PackError, match="neither"):
        pack(tmp_path / "m.txt")
    (tmp_path / ".gitignore").write_text("!\n")
    with pytest.raises(PackError, match="no pattern"):
        pack(tmp_path)
