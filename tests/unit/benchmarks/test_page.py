"""docs/performance.md is what its script makes of the committed results; tables, goals and plots say what they hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import performance_page
from benchmarks.page import (
    control,
    goals,
    peers,
    profiles,
    reasons,
    scale,
    sections,
    svg,
    tables,
    taken,
    values,
    workloads,
)
from benchmarks.page.derived import with_derived
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
    files = performance_page.made()
    stale = performance_page.differing(files) + performance_page.strange(files, performance_page.DOCS / tables.PLOTS)
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
    rows = {what: (goal, measured, met) for what, goal, measured, _, met in goals.rows(RESULTS)}
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
    told = scale.scale_out(results)
    assert "| four replicas | in flight, averaged over time | in flight, of a single look |" in told
    assert "| 10 to 30 ms, 64 connections | 1.05 | 1.30 |" in told


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
    assert "| Ray \\| default | ray 2 |" in text
    assert "Could not be measured: litserve." in text


def peer(**more: Any) -> dict[str, Any]:
    """Return a pair in the form that `make bench-peers` writes."""
    ours = {
        "per_second": 10_000.0,
        "server_cpu_us": 100.0,
        "client_cpu_us": 20.0,
        "per_second_of_each_run": [9e3, 11e3],
    }
    theirs = {"per_second": 1000.0, "server_cpu_us": 800.0, "per_second_of_each_run": [900.0, 1100.0]}
    return {
        "at": "2026-01-01T00:10:00Z",
        "load_average": [1.0, 0.5, 0.25],
        "load_average_after": [2.0, 1.0, 0.5],
        "what": "Envoy: with a transcoder",
        "ours": "`meshctl run` of an HTTP handler",
        "goal": 20,
        "installed": {
            "ours": {"installed_mb": 104.4, "byte_code_mb": 20.1, "packages": 31},
            "theirs": {"installed_mb": 129.8, "byte_code_mb": 2.2, "packages": 5},
        },
        "processes": {"ours": 3, "theirs": 2},
        "asked": {"ours": "GET /", "theirs": "GET /v1/noop"},
        "start_s": {"ours": 1.0, "theirs": 2.0, "of_each_start": {"ours": [1.0] * 5, "theirs": [2.0] * 5}},
        "connections_64": {"ours": ours, "theirs": theirs, "ratio": 10.0, "server_cpu_ratio": 8.0},
        **more,
    }


def test_peers_have_sizes_with_byte_code_and_what_a_request_costs_on_either_side() -> None:
    text = peers.peers(with_derived({"peers": {"peers": {"envoy": peer()}}}))
    assert "| Envoy | 104 MB / 130 MB | 20.1 MB / 2.20 MB | 31 / 5 |" in text
    assert "| Envoy | 100 µs | 800 µs | 3 / 2 | 1 / 0.800 | 0.200 / – | 10 | 8 | 20 | 40 µs |" in text
    assert "| Envoy | 10,000 | 9,000–11,000 | 1,000 | 900–1,100 | 10 |" in text
    assert "1.00, 0.50, 0.25 → 2.00, 1.00, 0.50" in text


def test_who_is_measured_beside_several_of_ours_is_told_apart() -> None:
    other = peer(ours="`meshctl run` of the same servicer")
    text = peers.peers(with_derived({"peers": {"peers": {"envoy": peer(), "envoy_same": other}}}))
    assert "| Envoy; ours is an HTTP handler | 10,000 |" in text
    assert "| Envoy; ours is the same servicer | 10,000 |" in text


def test_figures_of_an_earlier_run_are_marked() -> None:
    pairs = {"envoy": peer(), "ray": peer(what="Ray", at="2025-12-31T00:00:00Z")}
    text = peers.peers({"peers": {"began": "2026-01-01T00:00:00Z", "peers": pairs}})
    assert "| 2026-01-01T00:10:00Z | this |" in text
    assert "| 2025-12-31T00:00:00Z | **an earlier one** |" in text
    files = {"latest": {"at": "a", "machine": {**MACHINE, "commit": "abc", "changed": False}}}
    files["handles"] = {"at": "b", "machine": {**MACHINE, "commit": "abc", "changed": True}}
    text = taken.again(files)
    same = {"at": "c", "machine": {**MACHINE, "commit": "abd", "mesh_tree": "1", "changed": False}}
    later = {"at": "d", "machine": {**MACHINE, "commit": "abe", "mesh_tree": "1", "changed": False}}
    assert "‡" not in taken.again({"latest": same, "peers": later})
    assert "| `latest.json` | a | abc |" in text and "| `handles.json` | b | abc, changed ‡ |" in text


def test_the_size_that_is_judged_is_that_with_byte_code() -> None:
    results = with_derived({"peers": {"peers": {"envoy": peer()}}, "latest": {"installed": {"mb": 84.3}}})
    (row,) = (row for row in goals.rows(results) if row[0].startswith("installed"))
    assert row[1:3] == ("≤ 100 MB", "104 MB") and row[-1] == "**no**"
    assert "byte code that pip writes | 104 MB |" in workloads.footprint(results)
    assert "without it | 84.3 MB |" in workloads.footprint(results)
    measured = {"mb": 99.0, "byte_code_mb": 19.0, "largest_mb": {"granian": 21.0}}
    derived = with_derived({**results, "latest": {"installed": measured}})["derived"]["installed"]
    assert (derived["mb"], derived["without_byte_code_mb"], derived["largest"]) == (99.0, 80.0, "granian 21 MB")


def test_a_size_that_was_measured_alone_goes_before_that_beside_peers() -> None:
    alone = {"mb": 90.0, "byte_code_mb": 12.0, "without_byte_code_mb": 78.0, "packages": 20}
    results = with_derived({"peers": {"peers": {"envoy": peer()}}, "latest": {"installed": alone}})
    (row,) = (row for row in goals.rows(results) if row[0].startswith("installed"))
    assert row[2] == "90 MB" and row[-1] == "yes"


def test_chunks_on_the_wire_and_events_of_user_code_are_told_apart() -> None:
    stream = {
        "per_second": 1000.0,
        "gateway_cpu_us": 500.0,
        "gateway_cpu_us_per_chunk": 250.0,
        "events_per_second": 5e4,
    }
    told = {"sse_50_chunks": {**stream, "http_chunks_per_second": 2000.0, "chunks_per_answer": 2.0}}
    text = workloads.bodies({"latest": told})
    assert "| waits 1 ms between two, 256 streams | 50,000 | 2,000 | 2 | 500 µs | 250 µs |" in text
    (row,) = (row for row in goals.rows({"latest": told}) if row[0].startswith("server-sent"))
    assert row[2] == "2,000 chunks/s" and row[-1] == "**no**"
    assert "user code" not in workloads.bodies({"latest": {"sse_50_chunks": {"chunks_per_second": 190_000.0}}})


def test_processors_busy_follow_from_rate_and_cpu() -> None:
    run = {"per_second": 10_000.0, "gateway_cpu_us": 60.0, "server_cpu_us": 90.0, "client_cpu_us": 10.0}
    results = with_derived({"latest": {"noop_64_connections": run, "noop_1_connections": {"per_second": 1.0}}})
    assert values.number(results, "latest/noop_64_connections/busy/all") == pytest.approx(1.0)
    assert values.look(results, "latest/noop_1_connections/busy") is None
    assert "| no-op, 64 connections | 0.600 | 0.100 | 1 |" in workloads.requests(results)


def test_of_few_changes_the_slowest_is_told_and_not_a_p99() -> None:
    change = {"changes": 5, "served_by_all_p99_ms": 140.0}
    results = {
        "control_plane": {"what": "gateways", "other_code": change, "changes_20_per_second": {**change, "changes": 100}}
    }
    names = [row[0] for row in goals.rows(results)]
    assert names == [
        "other code received by 50 gateways, slowest of 5",
        "one of 20 changes a second received by 50 gateways, p99",
    ]
    text = control.control_plane(results)
    assert "| a change | changes | p99 | slowest |" in text
    assert "| other code | 5 | – | 140 ms |" in text


def test_goals_of_our_own_are_marked() -> None:
    text = goals.goals({"scale_out": {"memory": {"idle_connection_bytes": 20_000}}})
    assert "| memory of an idle connection † |" in text and "† A bound that we set ourselves" in text
    assert "†" not in goals.goals(RESULTS)


NOT_MET = """\
For who writes it: {not/told}.

## latest/noop_1_connections/p50_ms latest/noop_1_connections/p99_ms
**One connection** takes {latest/noop_1_connections/p99_ms / latest/noop_1_connections/p50_ms} times
{latest/noop_1_connections/p50_ms : ms}, {not/there}
{latest/noop_64_connections/p50_ms - latest/noop_1_connections/p50_ms * 2 : s}.

## latest/noop_64_connections/per_second
Not told.

## peers/peers/*/connections_64/ratio
{=peers/peers/*/label} has {peers/peers/*/connections_64/ratio}.
"""


def test_reasons_are_told_of_goals_that_are_not_met_with_the_figures_at_hand() -> None:
    results = with_derived(RESULTS)
    text = reasons.reasons(results, NOT_MET, goals.missed(results))
    assert text == (
        "Why not:\n- **One connection** takes 3.33 times 0.390 ms, – 7.22 s.\n- Ray | default has 39.9.\n"
        "- Without a reason noted: 2 × overload, goodput of peak.\n"
    )
    assert reasons.reasons(results, NOT_MET, []) == ""


def test_every_goal_that_was_set_has_a_reason_each_reason_a_goal_and_no_figure_in_it_is_written_by_hand() -> None:
    found = reasons.read((performance_page.HERE / "not_met.md").read_text())
    assert found
    paths = {goal.path for goal in goals.GOALS} | {"peers/peers/*/connections_64/ratio"}
    assert [path for reason in found for path in reason.goals if path not in paths] == []
    own = {goal.path for goal in goals.GOALS if goal.own}
    assert [path for path in paths - own if "*" not in path and not any(each.speaks_of(path) for each in found)] == []
    for reason in found:
        by_hand = re.sub(r"\{[^}]*\}", "", reason.text)
        assert not re.search(r"[0-9] ?(ms|µs|s|%|requests|times|×)(?!\w)|[0-9]\.[0-9]", by_hand), by_hand


def test_plots_that_are_not_made_any_more_go_and_nothing_else_does(tmp_path: Path) -> None:
    page, plot, old = tmp_path / "page.md", tmp_path / "plots" / "new.svg", tmp_path / "plots" / "old.svg"
    old.parent.mkdir()
    old.write_text("old")
    files = {page: "a page", plot: "<svg/>"}
    assert performance_page.write(files, old.parent) == [page, plot, old]
    assert page.read_text() == "a page" and plot.exists() and not old.exists()
    assert performance_page.write({**files, page: "another"}, old.parent) == [page]
    assert page.read_text() == "another"


def test_profiles_have_the_parts_that_there_are_and_their_sum() -> None:
    text = profiles.profiles(RESULTS)
    assert f"| {GRPC} | 45 | 30 ± 2 |" in text
    assert "| **all** | **45** | **40** |" in text
    assert "| processors busy, that thread |" not in text
    assert "1234567 (before) and abcdef0 (after)" in " ".join(text.split())
    assert set(re.findall(r"^\| (\w[^|]*) \|", text, re.M)) & set(PARTS) == {GRPC, PIPE}


def test_notes_become_part_of_the_page() -> None:
    text = sections.page(RESULTS, {"tried": "- larger windows\n", "not_met": NOT_MET})
    assert "## Tried, and did not pay\nNoted by hand" in text and "\n- larger windows\n" in text
    assert text.index("**One connection** takes") < text.index("## Small requests")


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


def test_memory_is_told_point_by_point_and_how_far_the_points_are_from_a_line() -> None:
    memory = {
        "idle_connection_bytes": 20_000,
        "idle_connection_bytes_of_each_run": [19_000, 20_000, 21_000],
        "idle_connection_points": [[100, 0], [500, 8_000_000], [1000, 18_000_000]],
        "idle_connection_residual": 0.004,
    }
    told = scale.scale_out({"scale_out": {"memory": memory}})
    assert "| memory of an idle connection | 20,000 bytes | 19,000–21,000" in told
    assert "| … off the line, of the whole rise | 0.004 |" in told
    assert "idle connections: 0 at 100, 8 at 500, 18 at 1,000." in told


def test_two_gateway_processes_stand_beside_one_with_the_frames_that_share_a_message() -> None:
    ways = {f"gateway_processes_{n}": {"per_second": 9000, "frames_per_message_in": 12.0 / n} for n in (1, 2)}
    rows = {f"replicas_{n}": {"per_second": 9000} for n in (1, 2, 4)}
    told = scale.scale({"latest": rows, "scale_out": {"processes": ways}})
    assert "| 2 gateway processes | 9,000 | 6 |" in told


def test_of_many_changes_p99_and_the_slowest_are_told_and_of_few_the_slowest_alone() -> None:
    change = {"accepted_p50_ms": 3, "served_by_first_p50_ms": 9, "served_by_all_p50_ms": 30}
    many = {**change, "changes": 100, "served_by_all_p99_ms": 64, "served_by_all_max_ms": 81}
    few = {**change, "changes": 5, "served_by_all_p99_ms": 118, "served_by_all_max_ms": 118}
    told = control.control_plane(
        {"control_plane": {"what": "gateways", "other_max_ongoing_requests": many, "other_code": few}}
    )
    assert "| another `max_ongoing_requests` | 100 | 3 ms | 9 ms | 30 ms | 64 ms | 81 ms |" in told
    assert "| other code | 5 | 3 ms | 9 ms | 30 ms | – | 118 ms |" in told


def test_what_a_longer_table_costs_is_told_by_instructions_and_what_many_pipes_do_by_frames() -> None:
    routes = {
        "applications_1": {"gateway_cpu_us": 60, "frames_per_message_in": 3.5, "instructions": 3867},
        "applications_100_one_asked": {"gateway_cpu_us": 61, "instructions": 3867},
        "replicas_1000": {"gateway_cpu_us": 130, "frames_per_message_in": 1.0},
    }
    told = " ".join(scale.scale_out({"scale_out": {"table": routes}}).split())
    assert (
        "executes 3,867 instructions, gateway and replica together, where it is alone in the table, and 3,867" in told
    )
    assert "a message carries 1 of them" in told
    assert "instructions" not in scale.scale_out({"scale_out": {"table": {"applications_1": {"gateway_cpu_us": 60}}}})
