"""A tour of the library with generated stubs.

python client.py [HOST:PORT]       (127.0.0.1:9000 if not given)

Each call has a deadline. What is refused because the service is busy is tried again by the gRPC library itself, as
the service config says: it waits as long as the server asks it to (`grpc-retry-pushback-ms`), else with back-off and
jitter, and it gives up if the server says that this is no use.
"""

import json
import sys
import uuid
from collections.abc import Iterator

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from library.v1 import library_pb2 as pb
from library.v1 import library_pb2_grpc

DEADLINE_S = 10.0
SERVICE = "library.v1.LibraryService"
READS = ("GetShelf", "ListShelves", "GetBook", "ListBooks", "ExportBooks")
BACKOFF = {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2}
SERVICE_CONFIG = {
    "methodConfig": [
        {
            # Reads may be repeated whatever happened to the first attempt.
            "name": [{"service": SERVICE, "method": method} for method in READS],
            "retryPolicy": {**BACKOFF, "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]},
        },
        {
            # A write that was shed never ran. One that ended as UNAVAILABLE may have.
            "name": [{"service": SERVICE}],
            "retryPolicy": {**BACKOFF, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]},
        },
    ],
    # Many failures in a row, and retries pause: they must not double the load of a server in trouble.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
BOOKS = (
    ("odyssey", pb.Book(title="The Odyssey", authors=["Homer"], genre=pb.POETRY, isbn="9780140268867")),
    ("origin", pb.Book(title="On the Origin of Species", authors=["Charles Darwin"], genre=pb.SCIENCE)),
    ("emma", pb.Book(title="Emma", authors=["Jane Austen"], genre=pb.FICTION, page_count=474)),
)


def connect(address: str) -> grpc.Channel:
    """Return a channel whose calls are retried as SERVICE_CONFIG says."""
    return grpc.insecure_channel(address, options=[("grpc.service_config", json.dumps(SERVICE_CONFIG))])


def explain(error: grpc.RpcError) -> str:
    """Return code and message of a failed call, with the fields or names that its details blame."""
    status = rpc_status.from_call(error)
    if status is None:
        return f"{error.code().name}: {error.details()}"
    blamed = []
    for packed in status.details:
        bad, resource = error_details_pb2.BadRequest(), error_details_pb2.ResourceInfo()
        if packed.Unpack(bad):
            blamed += [violation.field for violation in bad.field_violations]
        elif packed.Unpack(resource):
            blamed.append(resource.resource_name)
    return f"{error.code().name}: {status.message} ({', '.join(blamed)})"


def tour(library: library_pb2_grpc.LibraryServiceStub) -> Iterator[str]:
    """Use each kind of call once, on shelves of its own, and say what came back."""
    mine = uuid.uuid4().hex[:8]
    shelf = library.CreateShelf(
        pb.CreateShelfRequest(shelf_id=f"tour-{mine}", shelf=pb.Shelf(title="A tour")), timeout=DEADLINE_S
    )
    other = library.CreateShelf(pb.CreateShelfRequest(shelf_id=f"more-{mine}"), timeout=DEADLINE_S)
    try:
        requests = (pb.CreateBookRequest(parent=shelf.name, book_id=id, book=book) for id, book in BOOKS)
        yield f"imported {library.ImportBooks(requests, timeout=DEADLINE_S).book_count} books"

        listed = library.ListBooks(
            pb.ListBooksRequest(parent=shelf.name, genres=[pb.FICTION, pb.POETRY]), timeout=DEADLINE_S
        )
        yield f"fiction and poetry: {', '.join(book.title for book in listed.books)}"

        news = pb.Book(name=f"{shelf.name}/books/origin", publish_time=Timestamp(seconds=-3_487_536_000))
        changed = library.UpdateBook(
            pb.UpdateBookRequest(book=news, update_mask=FieldMask(paths=["publish_time"])), timeout=DEADLINE_S
        )
        yield f"{changed.title} came out on {changed.publish_time.ToJsonString()[:10]}"

        moved = library.MoveBook(pb.MoveBookRequest(name=changed.name, target=other.name), timeout=DEADLINE_S)
        yield f"moved to {moved.name.replace(mine, '...')}"

        exported = library.ExportBooks(pb.ExportBooksRequest(parent=shelf.name), timeout=DEADLINE_S)
        yield f"left on the shelf: {', '.join(book.title for book in exported)}"

        queries = (pb.SearchBooksRequest(query=query) for query in ("homer", "emma"))
        found = [answer.book for answer in library.SearchBooks(queries, timeout=DEADLINE_S) if answer.HasField("book")]
        yield f"found: {', '.join(book.title for book in found if mine in book.name)}"

        try:
            library.GetBook(pb.GetBookRequest(name=f"{shelf.name}/books/origin"), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            yield explain(error).replace(mine, "...")
    finally:
        for name in (shelf.name, other.name):
            library.DeleteShelf(pb.DeleteShelfRequest(name=name, force=True), timeout=DEADLINE_S)


def main() -> None:
    """Print the tour."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000"
    with connect(address) as channel:
        for line in tour(library_pb2_grpc.LibraryServiceStub(channel)):
            print(line)


if __name__ == "__main__":
    main()
