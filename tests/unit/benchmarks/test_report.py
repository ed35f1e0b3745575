"""What result files tell of the machine and the code."""

from __future__ import annotations

import json

import pytest

from benchmarks import report


def test_facts_of_the_machine_are_found_in_what_the_kernel_tells() -> None:
    text = "processor\t: 0\nmodel name\t: A: fast one\nMemTotal:   16384000 kB\n"
    assert report.named(text, "model name") == "A: fast one"
    assert report.named(text, "model") is None
    assert report.megabytes(report.named(text, "MemTotal")) == 16777
    assert report.megabytes(None) is None
    assert report.megabytes("12 MB") is None


def test_the_machine_tells_what_changes_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("GITHUB_TOKEN", "a secret")
    facts = report.machine()
    assert facts["environment"]["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "a secret" not in str(facts)
    assert len(facts["load_average_before"]) == len(facts["load_average"]) == 3
    assert {"cpu_model", "memory_mb", "commit", "changed"} <= facts.keys()


def test_medians_come_with_the_figures_of_each_run() -> None:
    runs = [{"p50_ms": 3.0, "rare": 1}, {"p50_ms": 1.0}, {"p50_ms": 2.00049}]
    told = report.medians(runs, ("p50_ms", "rare", "absent"))
    assert told == {"p50_ms": 2.0, "p50_ms_of_each_run": [3.0, 1.0, 2.0]}


def test_a_list_of_numbers_is_one_line_and_the_text_means_the_same() -> None:
    results = {"each": [1, 2.5, -3e-07], "none": [], "words": ["a [1,  2]", "b"], "within": {"each": [[1, 2], [3]]}}
    text = report.written(results)
    assert json.loads(text) == results
    assert '"each": [1, 2.5, -3e-07]' in text


def test_a_time_is_written_as_utc() -> None:
    assert report.instant(0) == "1970-01-01T00:00:00Z"
