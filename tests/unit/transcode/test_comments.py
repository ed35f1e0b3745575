from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.transcode import comments
from tests.unit.transcode import stubs


def library() -> FileDescriptorProto:
    return next(file for file in stubs.described().file if file.name == stubs.LIBRARY)


def test_what_is_written_is_read_again() -> None:
    file = library()
    told = comments.read(file)
    assert len(told) > 10
    comments.write(file, told | {"schematest.library.v1.Gone": "not there"})
    assert comments.read(file) == told
    assert len(file.source_code_info.location) == len(told)


def test_leading_and_trailing_comments_are_joined() -> None:
    file = FileDescriptorProto(name="a.proto")
    file.message_type.add(name="M").field.add(name="a")
    file.source_code_info.location.add(path=[4, 0, 2, 0], leading_comments=" before\n", trailing_comments=" after\n")
    assert comments.read(file) == {"M.a": "before\n\nafter"}


def test_margins_go_and_inner_blanks_stay() -> None:
    assert comments.cleaned(" One\n   two\n\n three \n") == "One\n  two\n\nthree"
    assert comments.cleaned("\n\n") == ""


def test_places_that_do_not_exist_have_no_comment() -> None:
    file = FileDescriptorProto(name="a.proto")
    file.message_type.add(name="M")
    for path in ([], [4], [4, 1], [4, -1], [12], [99, 0], [4, 0, 2, 0], [4, 0, 99, 0], [4, 0] * 100):
        file.source_code_info.location.add(path=path, leading_comments="x")
    assert comments.read(file) == {}


def test_long_comments_are_cut() -> None:
    file = FileDescriptorProto(name="a.proto")
    file.message_type.add(name="M")
    file.source_code_info.location.add(path=[4, 0], leading_comments="x" * 1_000_000)
    assert len(comments.read(file)["M"]) == comments.CHARS_MAX
