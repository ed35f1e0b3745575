"""Rules and dashboard name only metrics, and labels, that mesh has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Gauge

from deploy.tests.rendered import DEPLOY
from mesh import telemetry

OF_PROMETHEUS = {"instance", "job", "le", "role", "namespace", "pod"}
"""Labels that come from the scrape or the form of a metric."""
OF_RULES = re.compile(r"^mesh:")
BUILTIN = re.compile(r"^\$__")
OF_REPLICAS = {"mesh_replica_requests_total", "mesh_replica_ongoing_requests"}
"""Exposed by replicas alone, whose ports nobody knows beforehand: the scrape configuration does not reach them."""


def _known() -> dict[str, set[str]]:
    """Return the labels of each sample that a process of mesh exposes."""
    telemetry.REQUESTS.counts[("http", "/", "GET", "200")] = 1
    telemetry.REQUESTS.cell("http", "/")
    telemetry.DEPLOYMENT_REPLICAS.counts = {("a", "d", "ready"): 1}
    for made in vars(telemetry).values():
        if isinstance(made, (Counter, Gauge)) and made._labelnames:
            made.labels(*("x" for _ in made._labelnames))
    known: dict[str, set[str]] = {}
    for family in telemetry.REGISTRY.collect():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]
    return panels


EXPRESSIONS = {rule.get("alert") or rule["record"]: [rule["expr"]] for rule in _rules()} | {
    f"panel {panel['title']}": [target["expr"] for target in panel["targets"]] for panel in _panels()
}


def _selectors(expression: Any) -> Iterator[Any]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
        inner = getattr(expression, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None and not isinstance(each, (str, bool, int, float)):
                yield from _selectors(each)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_name_metrics_and_labels_that_exist(name: str) -> None:
    known = _known()
    for text in EXPRESSIONS[name]:
        parsed = promql_parser.parse(text.replace("$__rate_interval", "5m").replace("$application", ".*"))
        selectors = list(_selectors(parsed))
        assert selectors, text
        labels: set[str] = set(OF_PROMETHEUS)
        for selector in selectors:
            assert selector.name in known, f"{selector.name} in {text}"
            assert selector.name not in OF_REPLICAS, f"{selector.name} in {text}"
            labels |= known[selector.name]
            for matcher in selector.matchers.matchers:
                assert matcher.name in known[selector.name] | OF_PROMETHEUS, f"{matcher.name} in {text}"
        for group in re.findall(r"(?:by|without|ignoring|on)\s*\(([^)]*)\)", text):
            assert {label.strip() for label in group.split(",") if label.strip()} <= labels, text


def _labels(expression: Any) -> str:
    """Return which labels the series of an expression have: "" for a number, what `by` says, or "all"."""
    match expression:
        case promql_parser.ParenExpr():
            return _labels(expression.expr)
        case promql_parser.AggregateExpr():
            return str(expression.modifier or "none")
        case promql_parser.BinaryExpr():
            return _labels(expression.lhs) or _labels(expression.rhs)
        case promql_parser.NumberLiteral():
            return ""
    return "all"


def _joins(expression: Any) -> Iterator[Any]:
    if isinstance(expression, promql_parser.BinaryExpr):
        yield expression
        yield from _joins(expression.lhs)
        yield from _joins(expression.rhs)
    elif isinstance(inner := getattr(expression, "expr", None), promql_parser.Expr):
        yield from _joins(inner)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_both_sides_of_an_operator_have_the_same_labels(name: str) -> None:
    """Else no series of one side meets one of the other, and an alert never fires."""
    for text in EXPRESSIONS[name]:
        parsed = promql_parser.parse(text.replace("$__rate_interval", "5m").replace("$application", ".*"))
        for join in _joins(parsed):
            if str(join.op) != "or" and not join.modifier and (right := _labels(join.rhs)):
                assert _labels(join.lhs) in ("", right), text


def test_alerts_tell_people_what_to_do() -> None:
    known = _known()
    for rule in _rules():
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert any(label in labels for labels in known.values()) or label in OF_PROMETHEUS


def test_alerts_name_commands_that_exist() -> None:
    from mesh.cli import commands

    words = {each.__name__ for group in commands.GROUPS.values() for each in group}
    for rule in _rules():
        for command in re.findall(r"`meshctl (\w+)", str(rule.get("annotations", ""))):
            assert command in words, command


def test_the_dashboard_has_no_panel_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in _panels()}) == len(_panels())
