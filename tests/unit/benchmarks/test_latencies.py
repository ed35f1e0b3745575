from __future__ import annotations

import random

from benchmarks.latencies import Tally, percentile, percentiles


def test_a_percentile_is_the_least_value_with_that_share_of_all_below_or_at_it() -> None:
    ordered = [float(value) for value in range(1, 1001)]
    assert [percentile(ordered, share) for share in (500, 900, 990, 999, 1000)] == [500, 900, 990, 999, 1000]
    assert percentile([7.0], 999) == percentile([7.0], 1) == 7.0
    assert percentile([1.0, 2.0, 3.0], 500) == 2.0


def test_percentiles_are_in_milliseconds_and_nothing_has_none() -> None:
    assert percentiles([0.002, 0.001]) == {"p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 2.0, "p999_ms": 2.0}
    assert percentiles([]) == {}


def test_what_processes_saw_together_is_what_one_would_have_seen() -> None:
    chance = random.Random(1)
    whole, parts = Tally(), [Tally(), Tally(), Tally()]
    for _ in range(1000):
        status, seconds = chance.choice((200, 503)), chance.random()
        for tally in (whole, chance.choice(parts)):
            tally.add(status, seconds)
            tally.completed[status] += 1
            tally.late.append(seconds / 10)
            tally.seen["body_bytes"] += 3
            tally.cpu_s["client"] = tally.cpu_s.get("client", 0.0) + 0.5
    merged = Tally()
    for part in parts:
        merged.merge(part)
    assert merged.figures(2.0) == whole.figures(2.0)
    assert whole.figures(2.0)["requests"] == 1000
    assert whole.figures(2.0)["per_second"] == 500.0


def test_each_status_has_figures_of_its_own() -> None:
    tally = Tally()
    for status, seconds in ((200, 0.010), (200, 0.030), (503, 0.001)):
        tally.add(status, seconds)
        tally.completed[status] += 1
    by_status = tally.figures(1.0)["by_status"]
    assert by_status["200"]["per_second"] == 2.0
    assert by_status["200"]["p99_ms"] == 30.0
    assert by_status["503"]["p99_ms"] == 1.0


def test_rates_count_what_came_in_time_and_percentiles_what_was_due_in_time() -> None:
    tally = Tally()
    tally.add(200, 5.0)
    figures = tally.figures(1.0)
    assert (figures["requests"], figures["per_second"], figures["by_status"]["200"]["per_second"]) == (1, 0.0, 0.0)
