"""Generators are forks of one host: what one does or fails of is not another's."""

from __future__ import annotations

import pytest

from benchmarks import generators
from benchmarks.generators import GeneratorFailed, generate


def test_a_generator_that_fails_says_why_and_the_next_one_runs() -> None:
    for _ in range(2):
        with pytest.raises(GeneratorFailed, match="--rate"):
            generate("open_loop", "http://127.0.0.1:1/", seconds=0.1)
        with pytest.raises(GeneratorFailed, match="onnect"):
            generate("load", "http://127.0.0.1:1/", seconds=0.1, connections=1)


def test_a_generator_that_takes_too_long_is_ended_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "SPARE_S", -1.0)
    with pytest.raises(GeneratorFailed, match="did not end"):
        generate("load", "http://127.0.0.1:1/", seconds=1.0)
    monkeypatch.undo()
    with pytest.raises(GeneratorFailed, match="onnect"):
        generate("load", "http://127.0.0.1:1/", seconds=0.1, connections=1)


def test_every_second_round_runs_the_other_way_if_asked_to() -> None:
    order: list[str] = []

    def way(name: str) -> dict[str, str]:
        order.append(name)
        return {"name": name}

    ways = {name: (lambda name=name: way(name)) for name in "abc"}
    taken = generators.interleaved(ways, 3, in_turn=True)
    assert "".join(order) == "abccbaabc"
    assert [run["name"] for run in taken["a"]] == ["a", "a", "a"]
