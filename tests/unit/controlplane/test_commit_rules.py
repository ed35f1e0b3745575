"""What every store refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.controlplane.commit_rules import KEY_BYTES_MAX, check_commit, prefix_end
from mesh.controlplane.store import COMMIT_BYTES_MAX, OPERATIONS_MAX, VALUE_BYTES_MAX, Compare, Put, Remove


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_the_end_of_a_prefix_divides_exactly(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    inside = key >= prefix and (end is None or key < end)
    assert inside == key.startswith(prefix)


def test_ends_of_prefixes() -> None:
    assert prefix_end(b"") is None
    assert prefix_end(b"\xff\xff") is None
    assert prefix_end(b"a/") == b"a0"
    assert prefix_end(b"a\xff") == b"b"


def test_the_largest_commits_pass() -> None:
    check_commit((), ())
    check_commit((), (Put("a", b"x" * VALUE_BYTES_MAX),))
    check_commit((), (Put("k" * KEY_BYTES_MAX, b""),))
    check_commit((), (Put("a", b"x" * VALUE_BYTES_MAX), Put("b", b"x" * (COMMIT_BYTES_MAX - VALUE_BYTES_MAX - 2))))
    names = [str(number) for number in range(OPERATIONS_MAX)]
    check_commit([Compare(name, 0) for name in names], [Remove(name) for name in names])


@pytest.mark.parametrize(
    "operations",
    [
        (Put("", b""),),
        (Put("ü" * (KEY_BYTES_MAX // 2 + 1), b""),),
        (Put("a", b"x" * (VALUE_BYTES_MAX + 1)),),
        (Put("a", b""), Remove("a")),
        tuple(Put(str(number), b"x" * (COMMIT_BYTES_MAX // 2)) for number in range(2)),
        tuple(Remove(str(number)) for number in range(OPERATIONS_MAX + 1)),
    ],
)
def test_what_is_too_much_is_refused(operations: tuple[Put | Remove, ...]) -> None:
    with pytest.raises(ValueError):
        check_commit((), operations)


def test_too_many_compares_and_unnamed_keys_are_refused() -> None:
    with pytest.raises(ValueError):
        check_commit([Compare(str(number), 0) for number in range(OPERATIONS_MAX + 1)], ())
    with pytest.raises(ValueError):
        check_commit([Compare("", 0)], ())
