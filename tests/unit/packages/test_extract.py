"""Archives, honest and hostile: what is written, what is refused, and that nothing is ever written elsewhere."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.packages.extract import extract
from mesh.packages.members import ArchiveRefused, Limits

SMALL = Limits(bytes_max=1024 * 1024, members_max=100, depth_max=10)


Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def tar(path: Path, *entries: Entry, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, cast(Any, mode), format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return path


def member(name: str, mode: int = 0, compress: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr, info.compress_type = name, mode << 16, compress
    return info


def zipped(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return path


def everything_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def nothing_outside(tmp_path: Path) -> Iterator[Path]:
    """The directory in whose subdirectory `in/out` archives are unpacked: nothing else may come to be in it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("secret")
    yield tmp_path / "in"
    assert [path.name for path in (tmp_path / "in").iterdir() if path.name not in ("a", "out")] == []
    assert (tmp_path / "secret").read_text() == "secret"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "secret"}


def refused(archive: Path, where: Path, limits: Limits = SMALL) -> str:
    with pytest.raises(ArchiveRefused) as told:
        extract(archive, where / "out", limits)
    assert not (where / "out").exists()
    assert len(told.value.message) < 500
    return told.value.message


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_of_each_kind(tmp_path: Path, mode: str) -> None:
    archive = tar(
        tmp_path / "a",
        entry("./pkg", kind=tarfile.DIRTYPE),
        entry("pkg/a.py", b"A = 1\n"),
        entry("pkg/run", b"#!/bin/sh\n", mode=0o6755),
        entry("deep/er/b.txt", b"b" * 100_000),
        entry("pkg/link", kind=tarfile.SYMTYPE, link="../deep/er/b.txt"),
        entry("here", kind=tarfile.SYMTYPE, link="./deep"),
        entry("pkg/" + "long" * 40 + ".py", b"long"),
        mode=mode,
    )
    done = extract(archive, tmp_path / "out", SMALL)
    assert (done.files, done.bytes_written) == (4, 6 + 10 + 100_000 + 4)
    assert (tmp_path / "out/pkg/a.py").read_bytes() == b"A = 1\n"
    assert (tmp_path / "out/pkg/link").read_bytes() == b"b" * 100_000
    assert (tmp_path / "out/here/er/b.txt").exists()
    assert stat.S_IMODE((tmp_path / "out/pkg/run").stat().st_mode) & 0o7100 == 0o100
    assert not (tmp_path / "out/pkg/a.py").stat().st_mode & 0o111


def test_a_zip(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "a",
        ("pkg/", b""),
        ("pkg/a.py", b"A = 1\n"),
        (member("pkg/run", 0o104755), b"#!"),
        (member("pkg/link", stat.S_IFLNK | 0o777), b"a.py"),
        (member("stored", 0, zipfile.ZIP_STORED), b"x"),
    )
    assert extract(archive, tmp_path / "out", SMALL).files == 3
    assert (tmp_path / "out/pkg/link").read_bytes() == b"A = 1\n"
    assert stat.S_IMODE((tmp_path / "out/pkg/run").stat().st_mode) & 0o7100 == 0o100


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_other_forms_of_tar(tmp_path: Path, form: int) -> None:
    archive = tar(tmp_path / "a", entry("d/" + "n" * 90, b"1"), form=form)
    assert extract(archive, tmp_path / "out", SMALL).files == 1


HOSTILE_NAMES = [
    ("../evil", "'..'"),
    ("a/../../evil", "'..'"),
    ("/etc/evil", "absolute"),
    ("..\\evil", "another system"),
    ("a\\b", "another system"),
    ("C:/evil", "another system"),
    ("c:evil", "another system"),
    ("a\nb", "control characters"),
    ("n" * 300, "more than 255 bytes"),
    ("/".join(["d"] * 11), "deep"),
    ("/".join(["d" * 200] * 6), "1024 bytes"),
    (".", "stands twice"),
]


@pytest.mark.parametrize(("name", "why"), HOSTILE_NAMES)
def test_a_hostile_name_is_refused(nothing_outside: Path, name: str, why: str) -> None:
    archive = tar(nothing_outside / "a", entry("ok", b"1"), entry(name, b"evil"))
    assert why in refused(archive, nothing_outside)
    archive.unlink()
    archive = zipped(nothing_outside / "a", ("ok", b"1"), (member(name), b"evil"))
    assert why in refused(archive, nothing_outside)


LINKS = [
    "/etc/passwd",
    "..",
    "../secret",
    "d/../../secret",
    "up/../..",
    "up/secret",
    "loop",
    "a\\b",
    "C:x",
    "",
    "x" * 2000,
]


@pytest.mark.parametrize("target", LINKS)
def test_a_link_that_leaves_is_refused(nothing_outside: Path, target: str) -> None:
    entries = (("d/f", b"1", 0), ("d/up", b"..", stat.S_IFLNK), ("up", b"d/up/..", stat.S_IFLNK))
    infos = [(member(name, mode), data) for name, data, mode in entries]
    archive = zipped(nothing_outside / "a", *infos[:2], (member("loop", stat.S_IFLNK), target.encode()))
    if target.startswith("up"):
        archive = zipped(nothing_outside / "a", *infos, (member("loop", stat.S_IFLNK), target.encode()))
    assert "is a link to" in refused(archive, nothing_outside)
    if target:
        archive = tar(nothing_outside / "a", entry("loop", kind=tarfile.SYMTYPE, link=target))
        if not target.startswith("up"):
            assert "is a link to" in refused(archive, nothing_outside)


def test_a_file_through_a_link_is_refused(nothing_outside: Path) -> None:
    through = (entry("l", kind=tarfile.SYMTYPE, link="d"), entry("l/f", b"evil"), entry("d/x", b""))
    for entries in (through, through[::-1]):
        archive = tar(nothing_outside / "a", *entries)
        told = refused(archive, nothing_outside)
        assert "no directory" in told or "stands twice" in told


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"9"])
def test_what_is_no_file_is_refused(nothing_outside: Path, kind: bytes) -> None:
    archive = tar(nothing_outside / "a", entry("ok", b"1"), entry("evil", kind=kind, link="ok"))
    if kind == b"9":  # an unknown kind is a file by the standard, but nobody makes one
        assert "neither a file" in refused(archive, nothing_outside)
    else:
        assert "'evil' is neither a file" in refused(archive, nothing_outside)


@pytest.mark.parametrize("mode", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_what_is_no_file_in_a_zip_is_refused(nothing_outside: Path, mode: int) -> None:
    archive = zipped(nothing_outside / "a", (member("evil", mode), b""))
    assert "'evil' is neither a file" in refused(archive, nothing_outside)


def test_a_sparse_file_is_refused(nothing_outside: Path) -> None:
    info, data = entry("evil", b"")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**50)}
    assert "neither a file" in refused(tar(nothing_outside / "a", (info, data)), nothing_outside)


@pytest.mark.parametrize("names", [("f", "f"), ("f", "./f"), ("f", "f/g"), ("f/g", "f")])
def test_nothing_stands_twice(nothing_outside: Path, names: tuple[str, str]) -> None:
    archive = tar(nothing_outside / "a", *(entry(name, b"1") for name in names))
    told = refused(archive, nothing_outside)
    assert "twice" in told or "no directory" in told


def test_an_encrypted_member_is_refused(nothing_outside: Path) -> None:
    archive = zipped(nothing_outside / "a", ("f", b"1"))
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    archive.write_bytes(data)
    assert "'f' is encrypted" in refused(archive, nothing_outside)


def test_other_methods_of_a_zip_are_refused(nothing_outside: Path) -> None:
    archive = zipped(nothing_outside / "a", (member("f", 0, zipfile.ZIP_BZIP2), b"1"))
    assert "method" in refused(archive, nothing_outside)


# Bombs.


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_a_bomb_is_refused_by_what_it_writes(nothing_outside: Path, mode: str) -> None:
    archive = tar(nothing_outside / "a", entry("bomb", bytes(8 * 1024 * 1024)), mode=mode)
    assert "'bomb' makes the archive grow beyond 1 MiB" in refused(archive, nothing_outside)
    archive = zipped(nothing_outside / "a", ("bomb", bytes(8 * 1024 * 1024)))
    assert "'bomb' makes the archive grow beyond 1 MiB" in refused(archive, nothing_outside)


def test_a_ratio_beyond_all_code_is_refused(nothing_outside: Path) -> None:
    archive = zipped(nothing_outside / "a", ("bomb", bytes(20 * 1024 * 1024)))
    assert "beyond 16 MiB" in refused(archive, nothing_outside, Limits())


def test_a_size_that_is_a_lie_is_no_way_around(nothing_outside: Path) -> None:
    archive = zipped(nothing_outside / "a", ("bomb", bytes(8 * 1024 * 1024)))
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        data[data.index(mark) + offset : data.index(mark) + offset + 4] = struct.pack("<I", 10)
    archive.write_bytes(data)
    assert "damaged" in refused(archive, nothing_outside)


def test_too_many_members(nothing_outside: Path) -> None:
    archive = tar(nothing_outside / "a", *(entry(str(i)) for i in range(101)))
    assert "more than 100" in refused(archive, nothing_outside)
    archive = tar(nothing_outside / "a", *(entry("/".join([str(i), *"abcdefg"])) for i in range(20)))
    assert "more than 100" in refused(archive, nothing_outside)


def test_members_of_a_zip_that_overlap(nothing_outside: Path) -> None:
    """The bomb that stands for any number of files with one kernel of data."""
    archive = zipped(nothing_outside / "a", ("a", bytes(1000)), ("b", bytes(1000)))
    data = archive.read_bytes()
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    archive.write_bytes(data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :])
    assert "overlaps" in refused(archive, nothing_outside)


def test_a_huge_header_costs_no_memory(nothing_outside: Path) -> None:
    for kind in (b"x", b"g", b"L", b"K"):
        info = tarfile.TarInfo("h")
        info.type, info.size = kind, 2**33
        (nothing_outside / "a").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000_000)))
        assert "header that is too long" in refused(nothing_outside / "a", nothing_outside)


def test_headers_that_add_up_are_bounded(nothing_outside: Path) -> None:
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = []
    for i in range(120):
        info = tarfile.TarInfo("h")
        info.type, info.size = b"g", 1024 * 1024
        text = b"%d k%d=" % (1024 * 1024, i)
        parts.append(made.compress(info.tobuf() + text.ljust(1024 * 1024 - 1, b"v") + b"\n"))
        parts.append(made.compress(tarfile.TarInfo(f"f{i}").tobuf()))
    archive = nothing_outside / "a"
    archive.write_bytes(b"".join([*parts, made.flush()]))
    assert "header that is too long" in refused(archive, nothing_outside, Limits(ratio_max=10_000))


def test_headers_within_headers_without_end(nothing_outside: Path) -> None:
    info = tarfile.TarInfo("h")
    info.type, info.size = b"L", 512
    header = info.tobuf(tarfile.GNU_FORMAT) + b"a" * 512
    (nothing_outside / "a").write_bytes(header * 5000)
    assert "damaged" in refused(nothing_outside / "a", nothing_outside)


def test_a_size_below_zero(nothing_outside: Path) -> None:
    info = tarfile.TarInfo("h")
    buffer = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    buffer[124:136] = b"\xff" * 11 + b"\x00"
    buffer[148:156] = b" " * 8
    buffer[148:155] = b"%06o\0" % sum(buffer)
    (nothing_outside / "a").write_bytes(bytes(buffer) + bytes(10240))
    assert "damaged" in refused(nothing_outside / "a", nothing_outside)


def test_a_list_of_members_that_is_too_long(nothing_outside: Path) -> None:
    directory = 9 * 1024 * 1024
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, directory, 4, 0)
    (nothing_outside / "a").write_bytes(b"PK\x03\x04" + bytes(directory) + end)
    assert "too long" in refused(nothing_outside / "a", nothing_outside)


# Damage.


def honest(path: Path, kind: str) -> Path:
    if kind == "zip":
        return zipped(path, ("pkg/a.py", b"A = 1\n" * 100), ("b", os.urandom(700)))
    return tar(path, entry("pkg/a.py", b"A = 1\n" * 100), entry("b", os.urandom(700)), mode=f"w:{kind}")


@pytest.mark.parametrize("kind", ["zip", "", "gz", "xz", "bz2"])
def test_a_truncated_archive_is_refused(nothing_outside: Path, kind: str) -> None:
    data = honest(nothing_outside / "a", kind).read_bytes()
    # Of a plain tar the padding may be cut, no more: its end is marked twice.
    whole = len(data) if kind else data.rindex(data.rstrip(b"\0")[-1:]) + 512
    for size in [*range(0, whole - 1, 97), *([whole - 1] if kind else [])]:
        (nothing_outside / "a").write_bytes(data[:size])
        refused(nothing_outside / "a", nothing_outside)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"MZ" + bytes(1000), bytes(2000), b"PK\x03\x04"])
def test_what_is_no_archive(nothing_outside: Path, content: bytes) -> None:
    (nothing_outside / "a").write_bytes(content)
    refused(nothing_outside / "a", nothing_outside)


def test_it_can_be_stopped(nothing_outside: Path) -> None:
    archive = honest(nothing_outside / "a", "gz")
    with pytest.raises(ArchiveRefused, match="stopped"):
        extract(archive, nothing_outside / "out", stopped=lambda: True)
    assert not (nothing_outside / "out").exists()


def test_a_target_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_text("kept")
    with pytest.raises(FileExistsError):
        extract(honest(tmp_path / "a", "zip"), tmp_path / "out")
    assert everything_below(tmp_path / "out") == ["kept"]


# Fuzzing: whatever the archive, all that exists afterwards is inside, or nothing is.

PARTS = st.sampled_from(["a", "b", "l", "..", ".", "", "a\\b", "C:", "é", "A"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=20)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
TAR_ENTRIES = st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=8)


def check_inside(archive: Path, base: Path) -> None:
    out = base / "out"
    try:
        extract(archive, out, SMALL)
    except ArchiveRefused:
        assert not out.exists()
    else:
        real = os.path.realpath(out)
        for path in out.rglob("*"):
            assert os.path.realpath(path).startswith(real + os.sep) or os.path.realpath(path) == real
            assert not path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
            kind = stat.S_IFMT(path.lstat().st_mode)
            assert kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
            if kind == stat.S_IFREG:
                assert path.lstat().st_nlink == 1
        shutil.rmtree(out)
    assert [path.name for path in base.iterdir()] == ["a"]


def fuzzed(make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("fuzz")
    make(base / "a")
    check_inside(base / "a", base)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(entries=TAR_ENTRIES)
def test_any_tar_stays_inside(entries: list[tuple[str, bytes, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    def make(path: Path) -> None:
        infos = [entry(name, b"x" if kind == tarfile.REGTYPE else b"", kind, link) for name, kind, link in entries]
        try:
            tar(path, *infos)
        except UnicodeEncodeError:
            path.write_bytes(b"")

    fuzzed(make, tmp_path_factory)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(["zip", "", "gz"]),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_any_damage_is_refused_or_harmless(
    kind: str, flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def make(path: Path) -> None:
        if kind == "zip":
            zipped(path, ("pkg/a.py", b"A = 1\n" * 9), (member("l", stat.S_IFLNK), b"pkg/a.py"), ("é/b", b"b"))
        else:
            link = entry("l", kind=tarfile.SYMTYPE, link="pkg/a.py")
            tar(path, entry("pkg/a.py", b"A = 1\n" * 9), link, entry("é/b", b"b"))
        data = bytearray(path.read_bytes())
        for place, byte in flips:
            data[place % len(data)] = byte
        path.write_bytes(gzip.compress(data) if kind == "gz" else data)

    fuzzed(make, tmp_path_factory)


def test_xz_has_a_bound_of_memory(nothing_outside: Path) -> None:
    made = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    data = bytearray(made.compress(bytes(4096)) + made.flush())
    # The size of the dictionary is one byte of the block's header, which a checksum follows.
    header = 12
    size = (data[header] + 1) * 4
    place = data.index(b"\x21\x01", header) + 2
    data[place] = 37  # 1 GiB
    data[header + size - 4 : header + size] = struct.pack("<I", zlib.crc32(data[header : header + size - 4]))
    (nothing_outside / "a").write_bytes(data)
    assert "damaged" in refused(nothing_outside / "a", nothing_outside)
