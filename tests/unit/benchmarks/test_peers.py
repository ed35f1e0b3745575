"""What `make bench-peers` makes of its runs, and which peers it takes."""

import re

import pytest

from benchmarks.peers import figures
from benchmarks.peers.environments import THIS
from benchmarks.peers.running import Target
from benchmarks.peers.systems import CODE, PAIRS


def run(per_second: float, p99_ms: float = 1.0) -> dict[str, float]:
    return {"per_second": per_second, "p50_ms": 0.5, "p99_ms": p99_ms}


def test_all_are_taken_unless_some_are_asked_for() -> None:
    assert figures.selected("", ["a", "b", "c"]) == ["a", "b", "c"]
    assert figures.selected("c, a,", ["a", "b", "c"]) == ["a", "c"]


def test_who_asks_for_an_unknown_peer_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="there is no x, y: choose among a, b"):
        figures.selected("y,a,x", ["a", "b"])


def test_ratios_are_taken_pair_by_pair() -> None:
    ours, theirs = [run(100), run(10), run(300)], [run(50), run(5), run(100)]
    compared = figures.compared(ours, theirs)
    assert compared["ratio"] == 2.0
    assert figures.ratio([4, 1, 9], [1, 1, 3]) == 3.0  # the medians alone would say 4


def test_a_comparison_shows_both_sides_and_how_far_each_run_was_off() -> None:
    compared = figures.compared([run(200, 2.0), run(210, 3.0)], [run(100, 8.0), run(100, 6.0)])
    assert compared["ours"] == {
        "per_second": 205,
        "p50_ms": 0.5,
        "p99_ms": 2.5,
        "per_second_of_each_run": [200, 210],
    }
    assert compared["ratio"] == 2.05
    assert compared["p99_ratio"] == 3.0
    assert "server_cpu_ratio" not in compared


def test_a_generator_that_knows_only_the_rate_gives_only_its_ratio() -> None:
    compared = figures.compared([{"per_second": 10.0}], [{"per_second": 4.0}])
    assert compared == {
        "ours": {"per_second": 10.0, "per_second_of_each_run": [10.0]},
        "theirs": {"per_second": 4.0, "per_second_of_each_run": [4.0]},
        "ratio": 2.5,
        "ratio_of_each_run": [2.5],
    }


def test_what_a_request_costs_is_told_of_all_processes_and_of_the_client() -> None:
    told = figures.costs({"11": 0.2, "12": 0.1, "client": 0.05}, 1000)
    assert told == pytest.approx({"server_cpu_us": 300.0, "client_cpu_us": 50.0})


def test_what_only_some_runs_know_is_left_out() -> None:
    assert "client_cpu_us" not in figures.side([{**run(1), "client_cpu_us": 3.0}, run(2)])
    assert figures.side([{**run(1), "client_cpu_us": 3.0}] * 2)["client_cpu_us"] == 3.0


def test_who_was_not_asked_keeps_the_figures_of_before() -> None:
    assert figures.merged({"a": 1, "gone": 2, "c": 3}, {"c": 4, "b": 5}, ["a", "b", "c"]) == {"a": 1, "b": 5, "c": 4}


def test_every_version_is_pinned_and_an_environment_holds_the_same_for_all_who_share_it() -> None:
    held: dict[str, tuple[str, ...]] = {}
    for pair in PAIRS.values():
        for system in (pair.peer, pair.ours):
            assert held.setdefault(system.environment, system.requirements) == system.requirements
            assert all(each == THIS or re.fullmatch(r"[a-z-]+(\[\w+\])?==[\d.]+", each) for each in system.requirements)


def test_envoy_does_the_same_work_in_every_pair_but_the_one_of_an_http_handler() -> None:
    goals = {name: pair.goal for name, pair in PAIRS.items() if name.startswith("envoy")}
    assert goals == {"envoy": 4, "envoy_same_rpc": 4, "envoy_json": 3}
    assert len({PAIRS[name].ours.what for name in goals}) == len(goals)


def test_what_peers_serve_is_there() -> None:
    assert {path.stem for path in CODE.glob("*.py")} == {
        "bentoml_app",
        "fastapi_app",
        "grpc_app",
        "litserve_app",
        "ray_app",
    }


def test_a_target_says_what_is_asked() -> None:
    assert str(Target("127.0.0.1:1")) == "GET /"
    assert str(Target("127.0.0.1:1", body="{}")) == "POST / {}"
    assert str(Target("127.0.0.1:1", grpc="/a.B/C")) == "gRPC /a.B/C"
