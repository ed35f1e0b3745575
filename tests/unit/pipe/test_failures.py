"""What counts of a group of errors, as a TaskGroup raises it when one of several calls failed."""

from __future__ import annotations

import asyncio

from mesh.errors import BackPressureError, HandlerFailed, RequestTimeout, Unavailable
from mesh.pipe.failures import GROUP_MAX, error_of, failed, kind_of
from mesh.v1 import replica_service_pb2 as pb

FULL = BackPressureError("the child is full", retry_after_s=2.0, application="default", deployment="Child")


def test_the_first_of_a_group_counts_if_all_were_told_by_others() -> None:
    group = ExceptionGroup("several", [ExceptionGroup("inner", [FULL]), Unavailable("nobody"), RequestTimeout("late")])
    error = error_of(failed("text", group))
    assert isinstance(error, BackPressureError)
    assert (error.retry_after_s, error.deployment) == (2.0, "Child")


def test_code_that_raised_itself_failed() -> None:
    for group in (
        ExceptionGroup("several", [FULL, ValueError("own")]),
        BaseExceptionGroup("several", [asyncio.CancelledError(), FULL]),
        ExceptionGroup("very many", [FULL] * GROUP_MAX),
    ):
        assert kind_of(group) == pb.FAILURE_KIND_HANDLER
        told = failed("text", group)
        assert isinstance(error_of(told), HandlerFailed) and told.raised.endswith("ExceptionGroup")
