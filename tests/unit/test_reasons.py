"""The enums of reasons are those of the protos, in any version."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from mesh.reasons import EventReason, Reason, Severity
from mesh.v1 import deployment_pb2, event_pb2


@pytest.mark.parametrize(
    ("enum", "proto", "prefix"),
    [
        (Reason, deployment_pb2.Reason, "REASON_"),
        (EventReason, event_pb2.EventReason, "EVENT_REASON_"),
        (Severity, event_pb2.Severity, "SEVERITY_"),
    ],
)
def test_names_and_numbers_are_those_of_the_proto(enum: type[IntEnum], proto: Any, prefix: str) -> None:
    assert {each.name: each.value for each in enum} == {
        name.removeprefix(prefix): number for name, number in proto.items()
    }


def test_the_words_of_a_newer_version_are_taken_and_mean_nothing() -> None:
    assert Reason(9999) is Reason.UNSPECIFIED
    assert EventReason(9999) is EventReason.UNSPECIFIED
    with pytest.raises(ValueError):
        Reason(None)  # type: ignore[arg-type]
