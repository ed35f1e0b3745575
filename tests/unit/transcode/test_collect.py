from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mesh.errors import UserCodeError
from mesh.transcode import comments
from mesh.transcode.collect import DESCRIPTOR_SET_FILE, behavior, collect, descriptor_set_paths, handlers, is_async
from tests.unit.transcode import stubs

LIBRARY = "schematest.library.v1.LibraryService"
AUDIT = "schematest.library.v1.AuditService"


def servicer(*bases: type, **members: Any) -> type:
    return type("Servicer", bases, members)


def library() -> type:
    base: type = stubs.library().LibraryServiceServicer
    return base


def audit() -> type:
    base: type = stubs.library().AuditServiceServicer
    return base


def files(descriptor_set: bytes) -> FileDescriptorSet:
    return FileDescriptorSet.FromString(descriptor_set)


@pytest.mark.parametrize("target", [int, object, type("Plain", (), {}), len, lambda: None, None, 7, "text"])
def test_what_is_no_servicer_class_serves_nothing(target: object) -> None:
    assert collect(target) is None


def test_an_instance_is_not_a_class() -> None:
    assert collect(servicer(library())()) is None


def test_a_class_serves_the_service_of_its_base() -> None:
    found = collect(servicer(library()))
    assert found is not None
    assert [service.full_name for service in found.services] == [LIBRARY]
    kinds = {m.name: (m.client_streaming, m.server_streaming) for m in found.services[0].methods}
    assert kinds["GetShelf"] == (False, False)
    assert kinds["ImportShelves"] == (True, False)
    assert kinds["WatchShelves"] == (False, True)
    assert kinds["Chat"] == (True, True)
    assert next(iter(kinds)) == "GetShelf"


def test_several_services_and_inherited_ones_come_in_order_of_their_names() -> None:
    base = servicer(library())
    found = collect(servicer(base, audit()))
    assert found is not None
    assert [service.full_name for service in found.services] == [AUDIT, LIBRARY]


def test_what_the_class_implements_and_how() -> None:
    async def get_shelf(self: object, request: object, context: object) -> None: ...

    async def watch(self: object, request: object, context: object) -> Any:
        yield

    def sync(self: object, request: object, context: object) -> None: ...

    found = collect(servicer(library(), GetShelf=get_shelf, WatchShelves=watch, MoveShelf=sync))
    assert found is not None
    methods = {method.name: method for method in found.services[0].methods}
    implemented = {name: method.is_async for name, method in methods.items() if method.implemented}
    assert implemented == {"GetShelf": True, "WatchShelves": True, "MoveShelf": False}
    assert not methods["DeleteShelf"].is_async


def test_static_and_class_methods_are_methods_too() -> None:
    async def run(request: object, context: object) -> None: ...

    found = collect(servicer(library(), GetShelf=staticmethod(run), MoveShelf=classmethod(lambda cls, r, c: None)))
    assert found is not None
    methods = {method.name: method for method in found.services[0].methods}
    assert methods["GetShelf"].implemented and methods["GetShelf"].is_async
    assert methods["MoveShelf"].implemented and not methods["MoveShelf"].is_async


def test_a_class_with_call_serves_http_too() -> None:
    with_call = collect(servicer(library(), __call__=lambda self: "hi"))
    without = collect(servicer(library()))
    assert with_call is not None and with_call.serves_http
    assert without is not None and not without.serves_http


def test_the_descriptor_set_has_all_files_after_what_they_import() -> None:
    found = collect(servicer(audit(), library()))
    assert found is not None
    seen: set[str] = set()
    for file in files(found.descriptor_set).file:
        assert set(file.dependency) <= seen
        seen.add(file.name)
    assert {stubs.LIBRARY, "google/api/annotations.proto", "google/protobuf/descriptor.proto"} <= seen
    assert len(seen) == len(files(found.descriptor_set).file)
    assert stubs.ECHO not in seen
    assert collect(servicer(library(), audit())) == found


def test_a_service_without_a_package_and_without_imports() -> None:
    found = collect(servicer(stubs.echo().EchoServicer, stubs.echo().ParrotServicer))
    assert found is not None
    assert [service.full_name for service in found.services] == ["Echo", "Parrot"]
    assert [file.name for file in files(found.descriptor_set).file] == [stubs.ECHO]


def comments_of(descriptor_set: bytes) -> dict[str, str]:
    found = {file.name: comments.read(file) for file in files(descriptor_set).file}
    assert not any(texts for name, texts in found.items() if name.startswith("google/protobuf/"))
    return found[stubs.LIBRARY]


def test_comments_of_services_and_methods_come_from_generated_code() -> None:
    found = collect(servicer(library()))
    assert found is not None
    told = comments_of(found.descriptor_set)
    assert told[LIBRARY] == "Keeps shelves and books."
    assert told[f"{LIBRARY}.GetShelf"] == "Returns one shelf.\n\nIt must exist."
    assert f"{LIBRARY}.UpdateShelf" not in told
    assert "schematest.library.v1.Shelf" not in told


def test_other_comments_come_from_a_descriptor_set() -> None:
    found = collect(servicer(library()), [stubs.generated()[1]])
    assert found is not None
    told = comments_of(found.descriptor_set)
    assert told["schematest.library.v1.Shelf"] == "A shelf."
    assert told["schematest.library.v1.Shelf.name"] == "Its name: shelves/{shelf}."
    assert told["schematest.library.v1.Shelf.Kind.WOOD"] == "Made of wood."
    assert told[f"{LIBRARY}.ListShelves"] == "Lists what fits."


def test_a_descriptor_set_of_other_files_changes_nothing() -> None:
    other = FileDescriptorSet()
    other.file.add(name=stubs.LIBRARY, package="schematest.library.v1")
    plain = collect(servicer(library()))
    assert collect(servicer(library()), [other.SerializeToString()]) == plain


def test_a_broken_descriptor_set_is_told() -> None:
    with pytest.raises(UserCodeError, match="no descriptor set") as caught:
        collect(servicer(library()), [b"\xff\xff"])
    assert "generate it again" in caught.value.hint


def test_where_a_descriptor_set_may_lie() -> None:
    out = stubs.generated()[0]
    paths = descriptor_set_paths(servicer(library(), stubs.echo().EchoServicer))
    nearest = out / "schematest" / "library" / "v1"
    assert paths == tuple(str(each / DESCRIPTOR_SET_FILE) for each in (nearest, *nearest.parents[:3]))


def test_handlers_are_bound_to_the_instance() -> None:
    target = servicer(library(), GetShelf=lambda self, request, context: self)
    found = collect(target)
    assert found is not None
    instance = target()
    bound = handlers(instance, found.services[0])
    assert set(bound) == {method.name for method in found.services[0].methods}
    assert behavior(bound["GetShelf"])(None, None) is instance
    assert not is_async(behavior(bound["GetShelf"]))
    request = stubs.stub("schematest.library.v1.library_pb2").GetShelfRequest(name="shelves/1")
    assert bound["GetShelf"].request_deserializer(request.SerializeToString()) == request


def test_an_instance_may_have_methods_of_its_own() -> None:
    target = servicer(library())
    found = collect(target)
    assert found is not None
    instance = target()

    async def own(request: object, context: object) -> None: ...

    instance.GetShelf = own
    assert is_async(behavior(handlers(instance, found.services[0])["GetShelf"]))


@pytest.mark.parametrize("name", ["LibraryServiceStub", "LibraryService"])
def test_a_class_for_clients_is_refused(name: str) -> None:
    with pytest.raises(UserCodeError, match="which is for clients") as caught:
        collect(servicer(getattr(stubs.library(), name)))
    assert caught.value.hint == "derive it from LibraryServiceServicer"


def test_one_python_method_cannot_stream_and_not_stream() -> None:
    text = r"Servicer\.Audit would serve Echo and schematest\.library\.v1\.AuditService, which stream differently"
    with pytest.raises(UserCodeError, match=text):
        collect(servicer(audit(), stubs.echo().EchoServicer))


def test_a_class_of_the_same_name_in_a_module_that_imports_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("users_module")
    vars(module).update(vars(stubs.library()))
    monkeypatch.setitem(sys.modules, "users_module", module)
    own = type("AuditServiceServicer", (audit(),), {"__module__": "users_module", "Audit": lambda s, r, c: None})
    found = collect(own)
    assert found is not None
    assert [method.implemented for method in found.services[0].methods] == [True]


def old_stubs(monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], name: str = "older_stubs") -> Any:
    """Make a module of changed generated code."""
    source = Path(str(stubs.library().__file__)).read_text()
    changed = change(source)
    assert changed != source
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(changed, name, "exec"), vars(module))
    return module


def test_older_stubs_tell_a_generic_handler_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(source: str) -> str:
        return "\n".join(line for line in source.split("\n") if "add_registered_method_handlers" not in line)

    module = old_stubs(monkeypatch, without)
    found = collect(servicer(module.LibraryServiceServicer))
    today = collect(servicer(library()))
    assert found is not None and today is not None
    assert found.descriptor_set == today.descriptor_set
    assert found.services[0].methods == today.services[0].methods
    assert isinstance(
        handlers(servicer(module.LibraryServiceServicer)(), found.services[0])["Chat"], grpc.RpcMethodHandler
    )


def test_stubs_whose_module_is_gone_from_the_interpreter_still_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    module = old_stubs(monkeypatch, lambda source: source + "\n", name="forgotten_stubs")
    monkeypatch.delitem(sys.modules, "forgotten_stubs")
    assert collect(servicer(module.AuditServiceServicer)) is not None


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("'schematest.library.v1.LibraryService'", "'schematest.Gone'", "no imported .* module describes it"),
        ("'GetShelf': grpc", "'GetShelves': grpc", "does not know the method .*/GetShelf"),
        ("servicer.GetShelf,", "servicer.Missing,", "has no attribute 'Missing'"),
        (
            "'GetShelf': grpc.unary_unary_rpc",
            "'Extra': grpc.unary_unary_rpc_method_handler(None), 'GetShelf': grpc.unary_unary_rpc",
            "no .* module describes the method .*/Extra",
        ),
        ("'GetShelf': grpc.unary_unary", "'GetShelf': grpc.unary_stream", "differ on what .*/GetShelf streams"),
    ],
)
def test_generated_files_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, text: str
) -> None:
    module = old_stubs(monkeypatch, lambda source: source.replace(old, new))
    with pytest.raises(UserCodeError, match=text):
        collect(servicer(module.LibraryServiceServicer))
