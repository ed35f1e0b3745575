from __future__ import annotations

import pytest

from mesh.transcode.collisions import REASONS_MAX, Routes, collisions, routes_of
from mesh.transcode.descriptor_set import SchemaError
from mesh.transcode.schema import Schema
from tests.unit.transcode import stubs
from tests.unit.transcode.test_schema import http, small

LIBRARY = "schematest.library.v1.LibraryService"


def routes(route_prefix: str, template: str = "", **others: str) -> Routes:
    schema = Schema.load(small(http(template, **others) if template else lambda file: None))
    return routes_of(schema.services.values(), route_prefix)


def library(route_prefix: str) -> Routes:
    return routes_of((Schema.load(stubs.generated()[1]).services[LIBRARY],), route_prefix)


def test_the_same_service_may_be_under_two_prefixes() -> None:
    assert collisions(library("/two"), {"one": library("/one")}) == ()


def test_a_route_that_is_served_already_is_refused() -> None:
    taken = {"one": routes("/", "/v1/shelves/{text}"), "two": routes("/v2")}
    assert collisions(routes("/v1", "/shelves/{inner.text}"), taken) == (
        "POST '/v1/shelves/{inner.text}' of a.S/Do is served by application 'one' already",
    )
    assert collisions(routes("/v1", "/shelves/{text=**}"), taken) == ()
    assert collisions(routes("/v1", "/shelves/{text}:close"), taken) == ()
    assert collisions(routes("/v1", "/shelves"), taken) == ()


def test_the_http_method_counts() -> None:
    assert collisions(routes("/y", "/x", get="/x"), {"one": routes("/", "/y/x")}) == ()


def test_encodings_and_names_of_variables_do_not_count() -> None:
    assert collisions(routes("/a~b", "/x/{inner.text}"), {"one": routes("/", "/a%7eb/{text=x/*}")})


def test_a_method_s_own_path_is_taken_with_and_without_rules() -> None:
    reason = "POST '/x/a.S/Do' of a.S/Do is served by application 'one' already"
    assert collisions(routes("/x"), {"one": routes("/", "/x/a.S/Do")}) == (reason,)
    assert collisions(routes("/x", "/other"), {"one": routes("/", "/x/a.S/Do")}) == (reason,)
    assert routes("/x", "/a.S/Do").keys() == routes("/x").keys()


def test_what_is_not_reachable_over_http_has_no_routes() -> None:
    assert library("") == {}


def test_reasons_are_few() -> None:
    assert len(collisions(library("/"), {"one": library("/"), "two": library("/")})) == REASONS_MAX


def test_pages_of_mesh_are_not_to_be_had() -> None:
    with pytest.raises(SchemaError, match=r"POST '/-/routes' of a.S/Do is below '/-/', which is mesh's own"):
        routes("/", "/-/routes")
    assert ("POST", "/x/-/routes") in routes("/x", "/-/routes")


def test_a_prefix_that_is_no_path() -> None:
    with pytest.raises(SchemaError, match=r"nothing can be served under the route prefix '/a[*]b'"):
        routes("/a*b", "/x")
