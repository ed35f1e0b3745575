"""What etcd's errors mean."""

from __future__ import annotations

import grpc
import pytest

from mesh.controlplane.etcd_errors import Effect, classify, in_short
from mesh.controlplane.store import Compacted
from mesh.errors import InvalidConfig, NotFound

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "effect", "error"),
    [
        (Code.UNAVAILABLE, "failed to connect to all addresses; last error: refused", Effect.NONE, None),
        (Code.UNAVAILABLE, "connections to all backends failing; last error: refused", Effect.NONE, None),
        (Code.UNAVAILABLE, "etcdserver: no leader", Effect.NONE, None),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Effect.NONE, None),
        (Code.UNAVAILABLE, "Socket closed", Effect.UNKNOWN, None),
        (Code.UNAVAILABLE, "etcdserver: request timed out", Effect.UNKNOWN, None),
        (Code.UNAVAILABLE, "etcdserver: leader changed", Effect.UNKNOWN, None),
        (Code.DEADLINE_EXCEEDED, "", Effect.UNKNOWN, None),
        (Code.UNKNOWN, "no leader of anything", Effect.UNKNOWN, None),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Effect.UNKNOWN, None),
        (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Effect.LOGIN, InvalidConfig),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Effect.LOGIN, InvalidConfig),
        (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Effect.FINAL, InvalidConfig),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", Effect.FINAL, InvalidConfig),
        (Code.UNKNOWN, "rpc error: code = PermissionDenied desc = permission denied", Effect.FINAL, InvalidConfig),
        (Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", Effect.FINAL, InvalidConfig),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", Effect.FINAL, NotFound),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Effect.FINAL, Compacted),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", Effect.FINAL, Compacted),
        (Code.INVALID_ARGUMENT, "etcdserver: request is too large", Effect.FINAL, ValueError),
    ],
)
def test_meaning(code: grpc.StatusCode, details: str, effect: Effect, error: type[Exception] | None) -> None:
    failure = classify(code, details)
    assert failure.effect is effect
    assert type(failure.error) is (error or type(None))
    assert failure.text


def test_a_full_etcd_comes_with_its_remedy() -> None:
    assert "disarm" in classify(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded").hint


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote "
            "host: Connection refused",
            ": connection refused",
        ),
        ("Stream removed (Deadline Exceeded)", ""),
        ("etcdserver: no leader", ": etcdserver: no leader"),
    ],
)
def test_what_grpc_says_is_told_in_short(text: str, short: str) -> None:
    assert in_short(text) == short
