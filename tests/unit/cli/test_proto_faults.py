"""What is told of wrong .proto files: places, fixes, and the rule that a package is a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.cli.proto_faults import Fault, Known, misplaced, module, retold

KNOWN = Known(
    {
        "library/v1/shelf.proto": "package library.v1;\nmessage Shelf {\n  message Row {}\n}\n",
        "library/v1/book.proto": "package library.v1;\n",
        "google/protobuf/timestamp.proto": "package google.protobuf;\nmessage Timestamp {}\n",
    }
)


def faults(*said: str) -> list[Fault]:
    return retold("\n".join(said), lambda: KNOWN)[0]


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ('Import "shelf.proto" was not found or had errors.', 'write import "library/v1/shelf.proto";'),
        ('Import "library/v1/shelv.proto" was not found or had errors.', 'write import "library/v1/shelf.proto";'),
        ('Import "x/y.proto" was not found or had errors.', "put the file at x/y.proto"),
        ('"Shelf" is not defined.', 'write import "library/v1/shelf.proto"; and the type as library.v1.Shelf'),
        ('"google.protobuf.Timestamp" is not defined.', 'write import "google/protobuf/timestamp.proto";'),
        ('"Shelff" is not defined.', "did you mean Shelf?"),
        ('"int23" is not defined.', "did you mean int32?"),
        ('"Zzz" is not defined.', "declare it, or import the file that does"),
        ('Option "(google.api.http)" unknown. Ensure …', 'write import "google/api/annotations.proto";'),
        ('Option "(my.option)" unknown. Ensure …', "import the file that declares the option"),
        ('Expected ";".', 'end what stands before with ";"'),
        ("What nobody knows.", "see this line"),
    ],
)
def test_each_fault_has_a_fix(message: str, hint: str) -> None:
    (fault,) = faults(f"library/v1/book.proto:3:7: {message}")
    assert fault.text(Path("protos")) == f"protos/library/v1/book.proto:3:7: {message}"
    assert fault.hint.startswith(hint)


def test_what_follows_from_another_fault_is_left_out() -> None:
    found = faults(
        "b.proto: File not found.",
        'a.proto:3:1: Import "b.proto" was not found or had errors.',
        'c.proto:1:1: Expected ";".',
        'd.proto:3:1: Import "c.proto" was not found or had errors.',
        'c.proto:1:1: Expected ";".',
        'a.proto:9:1: "B" is not defined.',
        'e.proto:3:1: Import "a.proto" was not found or had errors.',
        'e.proto:9:1: "A" is not defined.',
    )
    assert [(fault.file, fault.line) for fault in found] == [("a.proto", 3), ("c.proto", 1)]


def test_a_fault_of_a_whole_file() -> None:
    (fault,) = faults("a/v1/a_pb2.py: x", "a/v1/a.proto: Tried to write the same file twice.")
    assert fault.text(Path(".")) == "a/v1/a.proto: Tried to write the same file twice."


def test_warnings() -> None:
    found, warnings = retold(
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "W0000 00:00:1.1 1 parser.cc:659] No edition or syntax specified for the proto file: a/a.proto. Please use …\n"
        "a/b.proto:3:1: warning: Import x.proto is unused.\n",
        lambda: KNOWN,
    )
    assert found == []
    assert [warning.text(Path("p")) for warning in warnings] == [
        "p/a/a.proto:1:1: no syntax is declared, so it is read as proto2",
        "p/a/b.proto:3:1: Import x.proto is unused.",
    ]
    assert all(warning.hint for warning in warnings)


def described(name: str, package: str) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package=package)
    file.source_code_info.location.add(path=[2], span=[4, 0, 20])
    return file


@pytest.mark.parametrize(("name", "package"), [("a/v1/x.proto", "a.v1"), ("x.proto", ""), ("a-b.proto", "")])
def test_files_in_their_places(name: str, package: str) -> None:
    assert misplaced([described(name, package)], Path("/p/protos")) == []


@pytest.mark.parametrize(
    ("name", "package", "message", "hint"),
    [
        (
            "x.proto",
            "hello.v1",
            "the package is 'hello.v1', but the file is at the top of protos/",
            "move the file to hello/v1/x.proto",
        ),
        (
            "b/v1/x.proto",
            "a.v1",
            "the package is 'a.v1', but the directory is 'b/v1'",
            "move the file to a/v1/x.proto, or write package b.v1;",
        ),
        ("b-b/x.proto", "a", "the package is 'a', but the directory is 'b-b'", "move the file to a/x.proto"),
        ("a/v1/x.proto", "", "no package is declared, but the directory is 'a/v1'", "write package a.v1;"),
        (
            "b-b/x.proto",
            "",
            "no package is declared, but the directory is 'b-b'",
            "move the file to a directory such as x/v1, and write its package",
        ),
        (
            "src/a/v1/x.proto",
            "a.v1",
            "the package is 'a.v1', but the directory is 'src/a/v1'",
            "compile the directory in it: meshctl proto compile protos/src",
        ),
        (
            "v1/x.proto",
            "protos.v1",
            "the package is 'protos.v1', but the directory is 'v1'",
            "compile the directory that holds protos/: meshctl proto compile /p",
        ),
        ("class/v1/x.proto", "class.v1", "'class' is a keyword of Python", "rename the package"),
        ("calendar/x.proto", "calendar", "Python has a module 'calendar' already", "put it under a name of your own"),
        ("grpc/x.proto", "grpc", "Python has a module 'grpc' already", "put it under a name of your own"),
        ("a/my file.proto", "a", "Python cannot import a module called my file_pb2", "name the file with letters"),
        ("a/1.proto", "a", "Python cannot import a module called 1_pb2", "name the file with letters"),
    ],
)
def test_files_out_of_place(name: str, package: str, message: str, hint: str) -> None:
    (fault,) = misplaced([described(name, package)], Path("/p/protos"))
    assert (fault.line, fault.column) == (5, 1)
    assert fault.message.startswith(message)
    assert fault.hint.startswith(hint)


def test_a_missing_package_is_told_at_the_first_line() -> None:
    (fault,) = misplaced([FileDescriptorProto(name="a/x.proto")], Path("/p"))
    assert (fault.line, fault.column) == (1, 1)


def test_modules() -> None:
    assert module("a/v1/my-file.proto") == "a.v1.my_file"
