"""The ways in which the library says no: a status code, a sentence, and details of google.rpc for programs."""

from collections.abc import Iterable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

Context = grpc.aio.ServicerContext[Any, Any]


async def not_found(context: Context, kind: str, name: str) -> NoReturn:
    """Refuse a name that nothing has."""
    detail = error_details_pb2.ResourceInfo(resource_type=f"library.v1.{kind}", resource_name=name)
    await _refuse(context, grpc.StatusCode.NOT_FOUND, f"there is no {kind.lower()} {name!r}", detail)


async def already_exists(context: Context, kind: str, name: str) -> NoReturn:
    """Refuse a name that is taken."""
    detail = error_details_pb2.ResourceInfo(resource_type=f"library.v1.{kind}", resource_name=name)
    await _refuse(context, grpc.StatusCode.ALREADY_EXISTS, f"there is a {kind.lower()} {name!r} already", detail)


async def invalid(context: Context, field: str, description: str) -> NoReturn:
    """Refuse a request because of one of its fields."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"{field} {description}", detail)


async def not_empty(context: Context, shelf: str, books: int) -> NoReturn:
    """Refuse to take away a shelf with books on it."""
    violation = error_details_pb2.PreconditionFailure.Violation(
        type="EMPTY", subject=shelf, description=f"{books} books stand on it"
    )
    detail = error_details_pb2.PreconditionFailure(violations=[violation])
    message = f"{shelf!r} is not empty: take its books away first, or set force"
    await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, message, detail)


async def full(context: Context, shelf: str, capacity: int) -> NoReturn:
    """Refuse a book because the shelf is full.

    The code is that of a request which mesh sheds; but a shelf does not empty itself, so the pushback of -1 tells
    clients not to try again.
    """
    violation = error_details_pb2.QuotaFailure.Violation(subject=shelf, description=f"it holds {capacity} books")
    detail = error_details_pb2.QuotaFailure(violations=[violation])
    message, more = f"{shelf!r} is full", (("grpc-retry-pushback-ms", "-1"),)
    await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, message, detail, more)


async def _refuse(
    context: Context,
    code: grpc.StatusCode,
    message: str,
    detail: Message,
    trailing_metadata: Iterable[tuple[str, str]] = (),
) -> NoReturn:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=[packed])
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, message, (details, *trailing_metadata))
