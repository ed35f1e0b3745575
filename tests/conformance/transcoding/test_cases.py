"""The conformance cases of the REST transcoder against the library: router and bindings, without a gateway."""

from __future__ import annotations

from functools import cache

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from mesh.transcode.binding import Binding
from mesh.transcode.json_codec import Codecs, JsonOptions
from mesh.transcode.refusals import RequestRefused
from mesh.transcode.router import Match, Route, Router
from mesh.transcode.schema import Schema
from mesh.transcode.template import parse_template
from tests.conformance.transcoding.cases import Case, load
from tests.support import everything

CASES = load()


@cache
def schema() -> Schema:
    return Schema.load(everything.descriptor_set())


@cache
def router(options: JsonOptions) -> Router[Binding]:
    codecs = Codecs(schema().pool, options)
    routes = []
    for service in schema().services.values():
        for method in service.methods.values():
            for rule in method.rules:
                template = parse_template(rule.template_text)
                variables = [variable.field_path for variable in template.variables]
                routes.append(Route(rule.http_method, template, Binding(rule, method, variables, codecs)))
    return Router(routes)


def received(case: Case, match: Match[Binding]) -> Message:
    return match.value.request(match.captures, case.query.encode(), case.body, case.content_type)


def matched(case: Case) -> Match[Binding]:
    match = router(JsonOptions(**case.options)).match(case.method, case.path.encode())
    assert isinstance(match, Match)
    return match


@pytest.mark.parametrize("case", [case for case in CASES if case.status == 200], ids=lambda case: case.id)
def test_accepted(case: Case) -> None:
    match = matched(case)
    message = received(case, match)
    type(message).FromString(message.SerializeToString())
    case.check_message(json_format.MessageToDict(message, descriptor_pool=schema().pool))
    case.check_answer(*match.value.response(message))


@pytest.mark.parametrize("case", [case for case in CASES if case.status != 200], ids=lambda case: case.id)
def test_refused(case: Case) -> None:
    with pytest.raises(RequestRefused) as caught:
        received(case, matched(case))
    refusal = caught.value
    assert refusal.status == case.status, refusal
    assert refusal.reason and str(refusal).isascii() and len(str(refusal)) < 1000
    assert not case.fields or refusal.field in case.fields, refusal


def test_there_are_cases_of_every_kind() -> None:
    assert {case.file for case in CASES} == {"json", "query", "body"}
    assert len(CASES) == len({case.id for case in CASES}) >= 350
    assert {case.status for case in CASES} == {200, 400, 415}
