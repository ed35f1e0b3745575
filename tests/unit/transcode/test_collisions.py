from __future__ import annotations

from mesh.transcode.collisions import REASONS_MAX, Exposed, check_collisions
from mesh.transcode.schema import Schema
from tests.unit.transcode import stubs
from tests.unit.transcode.test_schema import http, small

LIBRARY = "schematest.library.v1.LibraryService"


def exposed(route_prefix: str, template: str = "", **others: str) -> Exposed:
    schema = Schema.load(small(http(template, **others) if template else lambda file: None))
    return Exposed(route_prefix, tuple(schema.services.values()))


def library(route_prefix: str) -> Exposed:
    return Exposed(route_prefix, (Schema.load(stubs.generated()[1]).services[LIBRARY],))


def test_the_same_service_may_be_under_two_prefixes() -> None:
    assert check_collisions({"one": library("/one")}, library("/two")) == ()


def test_a_route_that_is_served_already_is_refused() -> None:
    taken = {"one": exposed("/", "/v1/shelves/{text}"), "two": exposed("/v2")}
    assert check_collisions(taken, exposed("/v1", "/shelves/{inner.text}")) == (
        "POST '/v1/shelves/{text}' of a.S/Do is served by application 'one' already",
    )
    assert check_collisions(taken, exposed("/v1", "/shelves/{text=**}")) == ()
    assert check_collisions(taken, exposed("/v1", "/shelves/{text}:close")) == ()
    assert check_collisions(taken, exposed("/v1", "/shelves")) == ()


def test_the_http_method_counts() -> None:
    assert check_collisions({"one": exposed("/", "/x")}, exposed("/", "/x", get="/x")) == ()


def test_encodings_and_names_of_variables_do_not_count() -> None:
    assert check_collisions({"one": exposed("/", "/a%7eb/{text=x/*}")}, exposed("/", "/a~b/x/{inner.text}"))


def test_default_routes_collide_too() -> None:
    assert check_collisions({"one": exposed("/")}, exposed("/")) == (
        "POST '/a.S/Do' of a.S/Do is served by application 'one' already",
    )


def test_what_is_not_reachable_over_http_collides_with_nothing() -> None:
    assert check_collisions({"one": library("")}, library("/")) == ()
    assert check_collisions({"one": library("/")}, library("")) == ()


def test_reasons_are_few() -> None:
    assert len(check_collisions({"one": library("/"), "two": library("/")}, library("/"))) == REASONS_MAX


def test_pages_of_mesh_are_not_to_be_had() -> None:
    (reason,) = check_collisions({}, exposed("/", "/-/routes"))
    assert reason == "POST '/-/routes' of a.S/Do is below '/-/', which is mesh's own"
    assert check_collisions({}, exposed("/x", "/-/routes")) == ()


def test_a_prefix_that_is_no_path() -> None:
    (reason,) = check_collisions({"old": exposed("/a*b", "/x")}, exposed("/a*b", "/x"))
    assert reason.startswith("nothing can be served under the route prefix '/a*b'")
    assert check_collisions({"old": exposed("/a*b", "/x")}, exposed("/", "/x")) == ()
