"""docs/performance.md is what its script makes of the committed results; tables, goals and plots say what they hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from benchmarks import performance_page
from benchmarks.page import goals, peers, profiles, sections, svg, tables, values, workloads
from benchmarks.stacks import GRPC, PARTS, PIPE

MACHINE = {"cpus": 2, "kernel": "6.1", "python": "3.11.7", "load_average": [0.1, 0.2, 0.3], "packages": {"grpcio": "1"}}
BOTH: dict[str, Any] = {"ours": {"per_second": 15_000.0, "p50_ms": 0.4}, "theirs": {"per_second": 375.0, "p50_ms": 4.0}}
BEFORE = {"us_per_request": 45.0, "parts_us": {GRPC: 45.0}}
AFTER = {"us_per_request": 40.0, "parts_us": {GRPC: 30.0, PIPE: 10.0}, "parts_error_us": {GRPC: 2.0}}
RESULTS: dict[str, Any] = {
    "latest": {
        "at": "2026-01-01T00:00:00Z",
        "machine": MACHINE,
        "noop_1_connections": {"per_second": 2000.0, "p50_ms": 0.39, "p99_ms": 1.3},
        "noop_64_connections": {"per_second": 15_500.0, "p50_ms": 4.0, "p99_ms": 7.0},
        "overload_2x": {"admitted": {"p99_ms": 70.0}, "goodput_of_peak": 0.976, "admitted_p99_ms_bound": 81.5},
    },
    "peers": {
        "peers": {
            "ray": {
                "what": "Ray | default",
                "goal": 40,
                "connections_64": {**BOTH, "ratio": 39.9},
                "versions": {"ray": "2"},
            },
            "envoy": {
                "what": "Envoy",
                "connections_64": {**BOTH, "ratio": 4.2},
                "start_s": {"ours": 1.4, "theirs": 0.2},
            },
        },
        "failed": {"litserve": "it could not be installed"},
    },
    "profile": {
        "commits": {"before": "1234567", "after": "abcdef0"},
        "no_op": {"64_connections": {"before": {"gateway": BEFORE}, "after": {"gateway": AFTER}}},
    },
}


def test_the_committed_page_is_what_its_script_makes_of_the_committed_results() -> None:
    stale = performance_page.differing()
    assert not stale, "run python -m benchmarks.performance_page and commit what it writes"


def test_every_link_of_the_page_leads_somewhere() -> None:
    page = performance_page.DOCS / "performance.md"
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_a_page_without_results_says_nothing_of_them() -> None:
    text = sections.page({}, {})
    assert text.count("## ") == 1
    assert "## Again" in text
    assert sections.plots({}) == {}


def test_goals_are_told_with_what_was_measured_and_whether_they_are_met() -> None:
    rows = {what: (goal, measured, met) for what, goal, measured, met in goals.rows(RESULTS)}
    assert rows["no-op JSON, 64 connections"] == ("≥ 15,000 requests/s", "15,500 requests/s", "yes")
    assert rows["1 connection, p50"] == ("≤ 0.400 ms", "0.390 ms", "yes")
    assert rows["2 × overload, goodput of peak"] == ("≥ 0.980", "0.976", "**no**")
    assert ("≤ 81.5 ms", "70 ms", "yes") in rows.values()
    assert rows["rate at 64 connections, of Ray | default"] == ("≥ 40", "39.9", "**no**")
    assert "refusals only" not in rows


def test_a_goal_is_noted_below_the_table_where_it_was_measured() -> None:
    balance = {"equal": {"in_flight_max_to_mean": 1.05, "in_flight_max_to_mean_of_a_look": 1.3}}
    results = {**RESULTS, "scale_out": {"balance": balance}}
    text = goals.goals(results)
    assert "| … max/mean in flight, averaged over time | ≤ 1.10 | 1.05 | yes |" in text
    assert "In flight, averaged over time: the mean" in text and "Access log and scrapes:" not in text
    assert "In flight, averaged over time" not in goals.goals(RESULTS)
    scale = workloads.scale_out(results)
    assert "in flight, averaged over time | 1.05 |" in scale
    assert "in flight of a single look, mean of all looks | 1.30 |" in scale


def test_tables_leave_out_what_nobody_has() -> None:
    columns = (tables.RATE, tables.P50, tables.Column("absent", "absent"))
    rows = [("one", "latest/noop_1_connections"), ("two", "latest/nothing")]
    assert tables.figures(RESULTS, "", rows, columns) == (
        "|  | requests/s | p50 |\n| --- | --: | --: |\n| one | 2,000 | 0.390 ms |\n"
    )
    assert tables.table(("a", "b"), []) == ""


def test_peers_are_told_and_why_some_are_not() -> None:
    text = peers.peers(RESULTS)
    assert "| Ray \\| default | 15,000 | 375 | 39.9 |" in text
    assert "1.40 s / 0.200 s" in text
    assert "- Ray | default: ray 2" in text
    assert "Could not be measured: litserve." in text


def test_profiles_have_the_parts_that_there_are_and_their_sum() -> None:
    text = profiles.profiles(RESULTS)
    assert f"| {GRPC} | 45 | 30 ± 2 |" in text
    assert "| **all** | **45** | **40** |" in text
    assert "| processors busy, that thread |" not in text
    assert "1234567 (before) and abcdef0 (after)" in " ".join(text.split())
    assert set(re.findall(r"^\| (\w[^|]*) \|", text, re.M)) & set(PARTS) == {GRPC, PIPE}


def test_notes_become_part_of_the_page() -> None:
    text = sections.page(RESULTS, {"tried": "- larger windows\n", "not_met": "Ray's rate: see below.\n"})
    assert "## Tried, and did not pay\n- larger windows\n" in text
    assert text.index("Ray's rate: see below.") < text.index("## Small requests")


@pytest.mark.parametrize("name", ["rate", "latency", "peers", "profile"])
def test_plots_are_well_formed_and_the_same_each_time(name: str) -> None:
    drawn = sections.plots(RESULTS)[name]
    assert drawn == sections.plots(RESULTS)[name]
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"


def test_bars_are_as_long_as_their_values() -> None:
    drawn = svg.bars("a <title>", [svg.Bar("one", [100.0]), svg.Bar("half & half", [50.0])], unit="/s")
    one, half = (float(width) for width in re.findall(r'<rect [^>]*width="([0-9.]+)"', drawn))
    assert one == 2 * half
    assert "half &amp; half" in drawn and "100 /s" in drawn


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0456, "0.046"),
        (0.4, "0.400"),
        (1.618, "1.62"),
        (12.34, "12.3"),
        (14.0, "14"),
        (15499.6, "15,500"),
    ],
)
def test_figures_have_about_three_digits(value: float, text: str) -> None:
    assert values.shown(value) == text
    assert values.shown(value, "ms") == f"{text} ms"


def test_what_is_not_there_or_no_number_is_none() -> None:
    assert values.number(RESULTS, "latest/noop_1_connections/p50_ms") == 0.39
    assert values.number(RESULTS, "latest/noop_1_connections") is None
    assert values.number(RESULTS, "latest/at") is None
    assert values.number({"a": {"b": True}}, "a/b") is None
    assert workloads.requests({"latest": {}}) == ""
