"""examples/library on a mesh: each method, each refusal with its details, and the client's tour and retries."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.cli.config_file import here, parse
from tests.support.library_example import LIBRARY, library_pb2_grpc, plain_server, served
from tests.support.library_example import library_pb2 as pb

DEADLINE_S = 20.0
CAPACITY = 3


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a mesh that serves the library, with shelves for CAPACITY books; one for all tests."""
    with served(tmp_path_factory.mktemp("library"), args={"shelf_capacity": CAPACITY}) as mesh:
        yield mesh.grpc


@pytest.fixture
async def library(address: str) -> AsyncIterator[library_pb2_grpc.LibraryServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield library_pb2_grpc.LibraryServiceStub(channel)


@pytest.fixture
async def shelf(library: Any) -> str:
    """A new, empty shelf."""
    return await new_shelf(library)


async def new_shelf(library: Any) -> str:
    request = pb.CreateShelfRequest(shelf_id=f"s-{uuid.uuid4().hex[:12]}", shelf=pb.Shelf(title="New"))
    made: pb.Shelf = await library.CreateShelf(request, timeout=DEADLINE_S)
    return made.name


async def put(library: Any, shelf: str, book_id: str, **fields: Any) -> pb.Book:
    book = pb.Book(**{"title": book_id.title(), **fields})
    made: pb.Book = await library.CreateBook(
        pb.CreateBookRequest(parent=shelf, book_id=book_id, book=book), timeout=DEADLINE_S
    )
    return made


async def refused(call: Any, detail: Message) -> grpc.aio.AioRpcError:
    """Return the error of a call that must fail, after unpacking its only detail into `detail`."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = await rpc_status.aio.from_call(call)
    (packed,) = status.details
    assert (status.code, status.message) == (raised.value.code().value[0], raised.value.details())
    assert packed.Unpack(detail)
    return raised.value


def ids(books: Iterable[pb.Book]) -> list[str]:
    return [book.name.rpartition("/")[2] for book in books]


async def test_a_shelf_is_made_found_listed_and_taken_away(library: Any, shelf: str) -> None:
    await put(library, shelf, "emma")
    found = await library.GetShelf(pb.GetShelfRequest(name=shelf), timeout=DEADLINE_S)
    assert found == pb.Shelf(name=shelf, title="New", book_count=1)
    listed = await library.ListShelves(pb.ListShelvesRequest(), timeout=DEADLINE_S)
    assert found in listed.shelves
    await library.DeleteShelf(pb.DeleteShelfRequest(name=shelf, force=True), timeout=DEADLINE_S)
    info = error_details_pb2.ResourceInfo()
    error = await refused(library.GetShelf(pb.GetShelfRequest(name=shelf), timeout=DEADLINE_S), info)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert (info.resource_type, info.resource_name) == ("library.v1.Shelf", shelf)


async def test_a_shelf_with_books_stays_unless_forced(library: Any, shelf: str) -> None:
    await put(library, shelf, "emma")
    failure = error_details_pb2.PreconditionFailure()
    error = await refused(library.DeleteShelf(pb.DeleteShelfRequest(name=shelf), timeout=DEADLINE_S), failure)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.violations[0].subject == shelf


@pytest.mark.parametrize("shelf_id", ["", "History", "a/b", "x" * 64, "é"])
async def test_a_bad_id_is_refused_by_name_of_its_field(library: Any, shelf_id: str) -> None:
    bad = error_details_pb2.BadRequest()
    request = pb.CreateShelfRequest(shelf_id=shelf_id)
    error = await refused(library.CreateShelf(request, timeout=DEADLINE_S), bad)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in bad.field_violations] == ["shelf_id"]


async def test_a_name_is_given_once(library: Any, shelf: str) -> None:
    info = error_details_pb2.ResourceInfo()
    again = pb.CreateShelfRequest(shelf_id=shelf.removeprefix("shelves/"))
    error = await refused(library.CreateShelf(again, timeout=DEADLINE_S), info)
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    await put(library, shelf, "emma")
    book = pb.CreateBookRequest(parent=shelf, book_id="emma", book=pb.Book(title="Emma"))
    error = await refused(library.CreateBook(book, timeout=DEADLINE_S), info)
    assert (error.code(), info.resource_name) == (grpc.StatusCode.ALREADY_EXISTS, f"{shelf}/books/emma")


@pytest.mark.parametrize(
    ("book", "field"),
    [
        (pb.Book(), "book.title"),
        (pb.Book(title="x", isbn="978-0"), "book.isbn"),
        (pb.Book(title="x", page_count=-1), "book.page_count"),
    ],
)
async def test_a_wrong_book_is_refused(library: Any, shelf: str, book: pb.Book, field: str) -> None:
    bad = error_details_pb2.BadRequest()
    request = pb.CreateBookRequest(parent=shelf, book_id="x", book=book)
    error = await refused(library.CreateBook(request, timeout=DEADLINE_S), bad)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in bad.field_violations] == [field]


async def test_a_full_shelf_is_a_quota_and_tells_clients_not_to_retry(library: Any, shelf: str) -> None:
    for i in range(CAPACITY):
        await put(library, shelf, f"book-{i}")
    quota = error_details_pb2.QuotaFailure()
    request = pb.CreateBookRequest(parent=shelf, book_id="more", book=pb.Book(title="More"))
    error = await refused(library.CreateBook(request, timeout=DEADLINE_S), quota)
    assert (error.code(), quota.violations[0].subject) == (grpc.StatusCode.RESOURCE_EXHAUSTED, shelf)
    assert ("grpc-retry-pushback-ms", "-1") in tuple(error.trailing_metadata())


async def test_a_book_is_found_by_name_and_by_isbn(library: Any, shelf: str) -> None:
    isbn = str(uuid.uuid4().int)[:13]
    made = await put(library, shelf, "emma", isbn=isbn, labels={"language": "en"}, page_count=0)
    for key in ({"name": made.name}, {"isbn": isbn}):
        found = await library.GetBook(pb.GetBookRequest(**key), timeout=DEADLINE_S)
        assert found == made
        assert found.HasField("page_count")
    other = pb.CreateBookRequest(parent=shelf, book_id="other", book=pb.Book(title="Other", isbn=isbn))
    error = await refused(library.CreateBook(other, timeout=DEADLINE_S), error_details_pb2.ResourceInfo())
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("books/emma", grpc.StatusCode.INVALID_ARGUMENT),
        ("shelves/none/books/none", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_a_book_that_is_not_there(library: Any, name: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await library.GetBook(pb.GetBookRequest(name=name), timeout=DEADLINE_S)
    assert raised.value.code() is code


async def test_books_are_listed_page_by_page(library: Any, shelf: str) -> None:
    for book_id in ("c", "a", "b"):
        await put(library, shelf, book_id)
    request, pages = pb.ListBooksRequest(parent=shelf, page_size=2), []
    while True:
        response = await library.ListBooks(request, timeout=DEADLINE_S)
        pages.append(ids(response.books))
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    assert pages == [["a", "b"], ["c"]]
    everywhere = await library.ListBooks(pb.ListBooksRequest(page_size=1000), timeout=DEADLINE_S)
    assert {f"{shelf}/books/{book_id}" for book_id in "abc"} <= {book.name for book in everywhere.books}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["emma", "odyssey", "origin"]),
        ({"genres": [pb.FICTION, pb.SCIENCE]}, ["emma", "origin"]),
        ({"published": pb.TimeSpan(after=Timestamp(seconds=100))}, ["origin"]),
        ({"published": pb.TimeSpan(before=Timestamp(seconds=100))}, ["emma"]),
        ({"published": pb.TimeSpan(after=Timestamp(seconds=1), before=Timestamp(seconds=101))}, ["emma", "origin"]),
    ],
)
async def test_books_are_chosen_by_genre_and_time(
    library: Any, shelf: str, wanted: dict[str, Any], found: list[str]
) -> None:
    await put(library, shelf, "emma", genre=pb.FICTION, publish_time=Timestamp(seconds=99, nanos=999_999_999))
    await put(library, shelf, "origin", genre=pb.SCIENCE, publish_time=Timestamp(seconds=100))
    await put(library, shelf, "odyssey", genre=pb.POETRY)
    response = await library.ListBooks(pb.ListBooksRequest(parent=shelf, **wanted), timeout=DEADLINE_S)
    assert ids(response.books) == found


@pytest.mark.parametrize(("field", "value"), [("page_token", "?"), ("page_token", "/w=="), ("page_size", -1)])
async def test_a_wrong_page_is_refused(library: Any, field: str, value: Any) -> None:
    bad = error_details_pb2.BadRequest()
    await refused(library.ListBooks(pb.ListBooksRequest(**{field: value}), timeout=DEADLINE_S), bad)
    assert [violation.field for violation in bad.field_violations] == [field]


async def test_an_update_changes_what_the_mask_names(library: Any, shelf: str) -> None:
    made = await put(library, shelf, "emma", genre=pb.FICTION, authors=["J. Austen"], page_count=474)
    news = pb.Book(name=made.name, title="ignored", authors=["Jane Austen"])
    masked = pb.UpdateBookRequest(book=news, update_mask=FieldMask(paths=["authors", "page_count"]))
    changed = await library.UpdateBook(masked, timeout=DEADLINE_S)
    assert changed == pb.Book(name=made.name, title="Emma", authors=["Jane Austen"], genre=pb.FICTION)
    assert not changed.HasField("page_count")
    whole = await library.UpdateBook(
        pb.UpdateBookRequest(book=pb.Book(name=made.name, title="Emma II")), timeout=DEADLINE_S
    )
    assert whole == pb.Book(name=made.name, title="Emma II")


@pytest.mark.parametrize("path", ["name", "labels.language", "nothing"])
async def test_a_mask_names_only_what_can_be_changed(library: Any, shelf: str, path: str) -> None:
    made = await put(library, shelf, "emma")
    bad = error_details_pb2.BadRequest()
    request = pb.UpdateBookRequest(book=made, update_mask=FieldMask(paths=["title", path]))
    error = await refused(library.UpdateBook(request, timeout=DEADLINE_S), bad)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad.field_violations[0].field == "update_mask"


async def test_a_book_moves_and_its_name_with_it(library: Any, shelf: str) -> None:
    made, target = await put(library, shelf, "emma"), await new_shelf(library)
    moved = await library.MoveBook(pb.MoveBookRequest(name=made.name, target=target), timeout=DEADLINE_S)
    assert moved.name == f"{target}/books/emma"
    await library.DeleteBook(pb.DeleteBookRequest(name=moved.name), timeout=DEADLINE_S)
    for name in (made.name, moved.name):
        error = await refused(
            library.GetBook(pb.GetBookRequest(name=name), timeout=DEADLINE_S), error_details_pb2.ResourceInfo()
        )
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_books_come_and_go_as_streams(library: Any, shelf: str) -> None:
    requests = [
        pb.CreateBookRequest(parent=shelf, book_id=book_id, book=pb.Book(title=book_id)) for book_id in ("b", "a")
    ]
    imported = await library.ImportBooks(iter(requests), timeout=DEADLINE_S)
    assert imported.book_count == 2
    exported = library.ExportBooks(pb.ExportBooksRequest(parent=shelf), timeout=DEADLINE_S)
    assert ids([book async for book in exported]) == ["a", "b"]


async def test_an_import_ends_at_the_first_wrong_book(library: Any, shelf: str) -> None:
    requests = [
        pb.CreateBookRequest(parent=shelf, book_id=book_id, book=pb.Book(title="x")) for book_id in ("a", "?", "b")
    ]
    call = library.ImportBooks(iter(requests), timeout=DEADLINE_S)
    error = await refused(call, error_details_pb2.BadRequest())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    exported = library.ExportBooks(pb.ExportBooksRequest(parent=shelf), timeout=DEADLINE_S)
    assert ids([book async for book in exported]) == ["a"]


async def test_an_export_of_no_shelf_fails_before_its_first_book(library: Any) -> None:
    call = library.ExportBooks(pb.ExportBooksRequest(parent="shelves/none"), timeout=DEADLINE_S)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_each_query_is_answered_as_it_comes(library: Any, shelf: str) -> None:
    word = uuid.uuid4().hex
    made = await put(library, shelf, "emma", title=f"Emma {word}", authors=["Jane Austen"])
    call = library.SearchBooks(timeout=DEADLINE_S)
    for query, found in ((word.upper(), [made]), (f"no {word}", []), (f"emma {word}", [made])):
        await call.write(pb.SearchBooksRequest(query=query))
        for book in found:
            assert await call.read() == pb.SearchBooksResponse(query=query, book=book)
        assert await call.read() == pb.SearchBooksResponse(query=query)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


def test_the_config_file_is_valid() -> None:
    text = (LIBRARY / "config.yaml").read_text()
    (application,) = parse(text, path="config.yaml", surroundings=here(LIBRARY)).config.applications
    assert application.import_path == "library_app:build"


async def test_the_tour_of_the_client(address: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(LIBRARY / "client.py"), address, stdout=asyncio.subprocess.PIPE, env=environment
    )
    said, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0
    assert said.decode().splitlines() == [
        "imported 3 books",
        "fiction and poetry: Emma, The Odyssey",
        "On the Origin of Species came out on 1859-06-27",
        "moved to shelves/more-.../books/origin",
        "left on the shelf: Emma, The Odyssey",
        "found: The Odyssey, Emma",
        "NOT_FOUND: there is no book 'shelves/tour-.../books/origin' (shelves/tour-.../books/origin)",
    ]


@pytest.fixture(scope="module")
def client() -> ModuleType:
    """The module client.py."""
    spec = importlib.util.spec_from_file_location("library_client", LIBRARY / "client.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Busy(library_pb2_grpc.LibraryServiceServicer):
    """Refuses the first calls and counts all."""

    def __init__(self, code: grpc.StatusCode, pushback: str | None) -> None:
        self.calls = 0
        self._code = code
        self._pushback = pushback

    async def GetShelf(self, request: pb.GetShelfRequest, context: Any) -> pb.Shelf:
        self.calls += 1
        if self.calls < 3:
            await context.abort(
                self._code, "busy", (("grpc-retry-pushback-ms", self._pushback),) if self._pushback else ()
            )
        return pb.Shelf(name=request.name)

    async def CreateShelf(self, request: pb.CreateShelfRequest, context: Any) -> pb.Shelf:
        return await self.GetShelf(pb.GetShelfRequest(name=f"shelves/{request.shelf_id}"), context)


def _read(stub: Any) -> pb.Shelf:
    shelf: pb.Shelf = stub.GetShelf(pb.GetShelfRequest(name="shelves/a"), timeout=DEADLINE_S)
    return shelf


def _write(stub: Any) -> pb.Shelf:
    shelf: pb.Shelf = stub.CreateShelf(pb.CreateShelfRequest(shelf_id="a"), timeout=DEADLINE_S)
    return shelf


@pytest.mark.parametrize("pushback", [None, "1"])
@pytest.mark.parametrize(
    ("call", "code"),
    [
        (_read, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (_read, grpc.StatusCode.UNAVAILABLE),
        (_write, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_the_client_tries_again(
    client: ModuleType, call: Callable[[Any], pb.Shelf], code: grpc.StatusCode, pushback: str | None
) -> None:
    busy = Busy(code, pushback)
    async with plain_server(busy) as address:
        assert await asyncio.to_thread(_once, client, address, call) == pb.Shelf(name="shelves/a")
    assert busy.calls == 3


@pytest.mark.parametrize(
    ("call", "code", "pushback"),
    [
        (_read, grpc.StatusCode.RESOURCE_EXHAUSTED, "-1"),
        (_write, grpc.StatusCode.RESOURCE_EXHAUSTED, "-1"),
        (_write, grpc.StatusCode.UNAVAILABLE, None),
        (_read, grpc.StatusCode.NOT_FOUND, None),
    ],
)
async def test_the_client_does_not_try_again(
    client: ModuleType, call: Callable[[Any], pb.Shelf], code: grpc.StatusCode, pushback: str | None
) -> None:
    busy = Busy(code, pushback)
    async with plain_server(busy) as address:
        with pytest.raises(grpc.RpcError) as raised:
            await asyncio.to_thread(_once, client, address, call)
    assert (raised.value.code(), busy.calls) == (code, 1)


def _once(client: ModuleType, address: str, call: Callable[[Any], pb.Shelf]) -> pb.Shelf:
    with client.connect(address) as channel:
        return call(library_pb2_grpc.LibraryServiceStub(channel))
