from __future__ import annotations

from mesh.controlplane.memo import Memo


def test_what_was_made_is_kept_while_its_inputs_are_the_same_objects() -> None:
    made: list[str] = []
    memo: Memo[list[str]] = Memo()

    def make() -> list[str]:
        made.append("x")
        return list(made)

    one, other = [1], [1]
    first = memo.get("a", (one, one), make)
    assert memo.get("a", (one, one), make) is first
    assert memo.get("a", (one, other), make) is not first, "another object, though an equal one"
    assert memo.get("a", (one,), make) != first
    assert len(made) == 3


def test_names_that_are_gone_are_forgotten() -> None:
    memo: Memo[int] = Memo()
    for name in ("a", "b"):
        memo.get(name, (), lambda: 1)
    memo.keep({"b"})
    assert len(memo) == 1
    assert (memo.get("a", (), lambda: 2), memo.get("b", (), lambda: 2)) == (2, 1)
