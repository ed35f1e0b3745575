"""A library in memory: a generated servicer as a deployment, with all four kinds of call.

meshctl run config.yaml

What it holds is gone when its process ends, and a second replica would hold other books: keep `num_replicas` at 1.
All methods are coroutines of one event loop that do not wait between reading and writing, so none sees another's
half-done work. Stored messages are never changed, only replaced.
"""

import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping

from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from library.v1 import library_pb2 as pb
from library.v1 import library_pb2_grpc
from refusals import Context, already_exists, full, invalid, not_empty, not_found

import mesh

_ID = re.compile(r"[a-z0-9-]{1,63}\Z")
_SHELF = re.compile(r"shelves/[a-z0-9-]{1,63}\Z")
_BOOK = re.compile(r"(shelves/[a-z0-9-]{1,63})/books/([a-z0-9-]{1,63})\Z")
_ISBN = re.compile(r"(\d{9}[\dX]|\d{13})\Z", re.ASCII)
_MUTABLE = ("title", "authors", "genre", "publish_time", "isbn", "page_count", "labels")
_PAGE_SIZE, _PAGE_SIZE_MAX = 50, 1000


@mesh.deployment(max_ongoing_requests=100, max_queued_requests=100)
class Library(library_pb2_grpc.LibraryServiceServicer):
    def __init__(self, shelf_capacity: int = 1000) -> None:
        self._shelf_capacity = shelf_capacity
        self._shelves: dict[str, pb.Shelf] = {}
        self._books: dict[str, pb.Book] = {}

    async def CreateShelf(self, request: pb.CreateShelfRequest, context: Context) -> pb.Shelf:
        if not _ID.match(request.shelf_id):
            await invalid(context, "shelf_id", "must be 1 to 63 lower-case letters, digits and hyphens")
        name = f"shelves/{request.shelf_id}"
        if name in self._shelves:
            await already_exists(context, "Shelf", name)
        self._shelves[name] = pb.Shelf(name=name, title=request.shelf.title)
        return self._shelves[name]

    async def GetShelf(self, request: pb.GetShelfRequest, context: Context) -> pb.Shelf:
        await self._check_shelf(request.name, "name", context)
        return self._counted(request.name)

    async def ListShelves(self, request: pb.ListShelvesRequest, context: Context) -> pb.ListShelvesResponse:
        return pb.ListShelvesResponse(shelves=[self._counted(name) for name in sorted(self._shelves)])

    async def DeleteShelf(self, request: pb.DeleteShelfRequest, context: Context) -> empty_pb2.Empty:
        await self._check_shelf(request.name, "name", context)
        books = self._on(request.name)
        if books and not request.force:
            await not_empty(context, request.name, len(books))
        for book in books:
            del self._books[book.name]
        del self._shelves[request.name]
        return empty_pb2.Empty()

    async def CreateBook(self, request: pb.CreateBookRequest, context: Context) -> pb.Book:
        return await self._create(request, context)

    async def GetBook(self, request: pb.GetBookRequest, context: Context) -> pb.Book:
        if request.WhichOneof("key") == "isbn":
            found = self._with_isbn(request.isbn)
            return found or await not_found(context, "Book", f"isbn/{request.isbn}")
        return await self._book(request.name, "name", context)

    async def ListBooks(self, request: pb.ListBooksRequest, context: Context) -> pb.ListBooksResponse:
        if request.parent:
            await self._check_shelf(request.parent, "parent", context)
        if request.page_size < 0:
            await invalid(context, "page_size", "must not be negative")
        start = await _start_of_page(request.page_token, context)
        size = min(request.page_size or _PAGE_SIZE, _PAGE_SIZE_MAX)
        wanted = [book for book in self._on(request.parent) if book.name > start and _matches(book, request)]
        response = pb.ListBooksResponse(books=wanted[:size])
        if len(wanted) > size:
            response.next_page_token = base64.urlsafe_b64encode(wanted[size - 1].name.encode()).decode()
        return response

    async def UpdateBook(self, request: pb.UpdateBookRequest, context: Context) -> pb.Book:
        stored = await self._book(request.book.name, "book.name", context)
        fields = request.update_mask.paths or _MUTABLE
        for field in fields:
            if field not in _MUTABLE:
                await invalid(context, "update_mask", f"names {field!r}; what can be changed is {', '.join(_MUTABLE)}")
        changed, news = pb.Book(), pb.Book()
        changed.CopyFrom(stored)
        news.CopyFrom(request.book)
        for field in ("name", *_MUTABLE):
            (changed if field in fields else news).ClearField(field)
        changed.MergeFrom(news)
        await self._check(changed, context)
        self._books[changed.name] = changed
        return changed

    async def DeleteBook(self, request: pb.DeleteBookRequest, context: Context) -> empty_pb2.Empty:
        book = await self._book(request.name, "name", context)
        del self._books[book.name]
        return empty_pb2.Empty()

    async def MoveBook(self, request: pb.MoveBookRequest, context: Context) -> pb.Book:
        book = await self._book(request.name, "name", context)
        moved = pb.Book()
        moved.CopyFrom(book)
        moved.name = await self._free_name(request.target, "target", book.name.rpartition("/")[2], context)
        del self._books[book.name]
        self._books[moved.name] = moved
        return moved

    async def ExportBooks(self, request: pb.ExportBooksRequest, context: Context) -> AsyncIterator[pb.Book]:
        await self._check_shelf(request.parent, "parent", context)
        for book in self._on(request.parent):
            yield book

    async def ImportBooks(
        self, request_iterator: AsyncIterator[pb.CreateBookRequest], context: Context
    ) -> pb.ImportBooksResponse:
        count = 0
        async for request in request_iterator:
            await self._create(request, context)
            count += 1
        return pb.ImportBooksResponse(book_count=count)

    async def SearchBooks(
        self, request_iterator: AsyncIterator[pb.SearchBooksRequest], context: Context
    ) -> AsyncIterator[pb.SearchBooksResponse]:
        async for request in request_iterator:
            text = request.query.casefold()
            for book in self._on():
                if any(text in words.casefold() for words in (book.title, *book.authors)):
                    yield pb.SearchBooksResponse(query=request.query, book=book)
            yield pb.SearchBooksResponse(query=request.query)

    async def _create(self, request: pb.CreateBookRequest, context: Context) -> pb.Book:
        if not _ID.match(request.book_id):
            await invalid(context, "book_id", "must be 1 to 63 lower-case letters, digits and hyphens")
        book = pb.Book()
        book.CopyFrom(request.book)
        book.name = await self._free_name(request.parent, "parent", request.book_id, context)
        await self._check(book, context)
        self._books[book.name] = book
        return book

    async def _free_name(self, shelf: str, field: str, book_id: str, context: Context) -> str:
        """Return the name of a book to be on a shelf, where there is a place for it."""
        await self._check_shelf(shelf, field, context)
        name = f"{shelf}/books/{book_id}"
        if name in self._books:
            await already_exists(context, "Book", name)
        if len(self._on(shelf)) >= self._shelf_capacity:
            await full(context, shelf, self._shelf_capacity)
        return name

    async def _check(self, book: pb.Book, context: Context) -> None:
        if not book.title:
            await invalid(context, "book.title", "must not be empty")
        if book.isbn and not _ISBN.match(book.isbn):
            await invalid(context, "book.isbn", "must be 10 or 13 digits")
        if book.page_count < 0:
            await invalid(context, "book.page_count", "must not be negative")
        other = self._with_isbn(book.isbn)
        if other and other.name != book.name:
            await already_exists(context, "Book", f"isbn/{book.isbn}")

    async def _check_shelf(self, name: str, field: str, context: Context) -> None:
        if not _SHELF.match(name):
            await invalid(context, field, "must look like 'shelves/history'")
        if name not in self._shelves:
            await not_found(context, "Shelf", name)

    async def _book(self, name: str, field: str, context: Context) -> pb.Book:
        if not _BOOK.match(name):
            await invalid(context, field, "must look like 'shelves/history/books/spqr'")
        return self._books.get(name) or await not_found(context, "Book", name)

    def _counted(self, name: str) -> pb.Shelf:
        return pb.Shelf(name=name, title=self._shelves[name].title, book_count=len(self._on(name)))

    def _on(self, shelf: str = "") -> list[pb.Book]:
        """Return the books of a shelf, or of all, in the order of their names."""
        start = f"{shelf}/books/" if shelf else ""
        return [self._books[name] for name in sorted(self._books) if name.startswith(start)]

    def _with_isbn(self, isbn: str) -> pb.Book | None:
        return next((book for book in self._books.values() if isbn and book.isbn == isbn), None)


def build(args: Mapping[str, int]) -> mesh.Application:
    """Bind the library with the arguments of the config file."""
    return Library.bind(**args)


app = Library.bind()


async def _start_of_page(token: str, context: Context) -> str:
    """Return the name after which a page starts."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        await invalid(context, "page_token", "is not one that ListBooks gave")


def _matches(book: pb.Book, request: pb.ListBooksRequest) -> bool:
    if request.genres and book.genre not in request.genres:
        return False
    span = request.published
    if not (span.HasField("after") or span.HasField("before")):
        return True
    if not book.HasField("publish_time"):
        return False
    published = _moment(book.publish_time)
    return (not span.HasField("after") or published >= _moment(span.after)) and (
        not span.HasField("before") or published < _moment(span.before)
    )


def _moment(stamp: Timestamp) -> tuple[int, int]:
    return stamp.seconds, stamp.nanos
