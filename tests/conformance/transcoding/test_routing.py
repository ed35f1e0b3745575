"""The table of routing.yaml against the matcher alone."""

from __future__ import annotations

from collections import Counter

import pytest

from mesh.transcode.router import DuplicateRoute, MalformedPath, Match, NoSuchPath, Route, Router, WrongMethod
from mesh.transcode.template import TemplateError, parse_template
from tests.conformance.transcoding.routing_cases import Case, Expected, Refused, cases, refused


@pytest.mark.parametrize("case", cases(), ids=str)
def test_request(case: Case) -> None:
    labelled = case.group.routes.items()
    router = Router([Route(method, parse_template(template), label) for label, (method, template) in labelled])
    match router.match(case.http_method, case.raw_path):
        case Match(label, captures):
            seen = Expected(200, label, captures)
        case WrongMethod(allow):
            seen = Expected(405, allow=allow)
        case NoSuchPath():
            seen = Expected(404)
        case MalformedPath():
            seen = Expected(400)
    assert seen == case.expected


@pytest.mark.parametrize("entry", refused(), ids=str)
def test_refused(entry: Refused) -> None:
    if entry.column:
        with pytest.raises(TemplateError) as caught:
            parse_template(entry.routes[0][1])
        assert caught.value.column == entry.column
    else:
        routes = [Route(method, parse_template(template), template) for method, template in entry.routes]
        with pytest.raises(DuplicateRoute):
            Router(routes)


def test_the_table_repeats_nothing_and_reaches_every_route() -> None:
    counts = Counter(map(str, cases()))
    assert not [text for text, count in counts.items() if count > 1]
    reached = {(case.group.name, case.expected.route) for case in cases()}
    assert not {(case.group.name, label) for case in cases() for label in case.group.routes} - reached
