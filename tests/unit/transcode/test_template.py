"""The grammar of path templates: what is accepted, what it means, and what is refused where."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import MeshError
from mesh.transcode.template import TEMPLATE_CHARACTERS_MAX, Template, TemplateError, Variable, parse_template

QUICK = settings(derandomize=True, max_examples=200, deadline=None)


@pytest.mark.parametrize(
    ("text", "segments", "verb", "variables"),
    [
        ("/v1", ("v1",), "", ()),
        ("/v1/shelves", ("v1", "shelves"), "", ()),
        ("/*", ("*",), "", ()),
        ("/**", ("**",), "", ()),
        ("/v1/*/books/**", ("v1", "*", "books", "**"), "", ()),
        ("/v1/{id}", ("v1", "*"), "", (Variable("id", 1, 2, False),)),
        ("/v1/{id=*}", ("v1", "*"), "", (Variable("id", 1, 2, False),)),
        ("/v1/{id=x}", ("v1", "x"), "", (Variable("id", 1, 2, False),)),
        ("/v1/{id=**}", ("v1", "**"), "", (Variable("id", 1, None, True),)),
        ("/{name=shelves/*}/all", ("shelves", "*", "all"), "", (Variable("name", 0, 2, True),)),
        ("/{name=shelves/**}", ("shelves", "**"), "", (Variable("name", 0, None, True),)),
        ("/{a.b.c_1}/{_d}", ("*", "*"), "", (Variable("a.b.c_1", 0, 1, False), Variable("_d", 1, 2, False))),
        ("/v1/shelves:merge", ("v1", "shelves"), "merge", ()),
        ("/v1/{id}:cancel", ("v1", "*"), "cancel", (Variable("id", 1, 2, False),)),
        ("/v1/**:purge", ("v1", "**"), "purge", ()),
        ("/v1/{name=a/**}:x", ("v1", "a", "**"), "x", (Variable("name", 1, None, True),)),
        ("/package.Service/Method", ("package.Service", "Method"), "", ()),
        ("/a:b/c", ("a:b", "c"), "", ()),
        ("/{n=a:b/c}", ("a:b", "c"), "", (Variable("n", 0, 2, True),)),
        ("/{n=a:b}/c", ("a:b", "c"), "", (Variable("n", 0, 1, False),)),
        ("/a=b/@c,d;e!$&'()+", ("a=b", "@c,d;e!$&'()+"), "", ()),
    ],
)
def test_what_a_template_means(
    text: str, segments: tuple[str, ...], verb: str, variables: tuple[Variable, ...]
) -> None:
    assert parse_template(text) == Template(text, segments, verb, variables)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("/v1/{id}", "/v1/*"),
        ("/%76%31/%7e", "/v1/~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%3ab", "/a%3Ab"),
        ("/%2a", "/%2A"),
        ("/a:%76erb", "/a:verb"),
        ("/v1/{a=x/*}/{b=**}:go", "/v1/x/*/**:go"),
    ],
)
def test_the_shape_is_without_variables_and_in_canonical_form(text: str, shape: str) -> None:
    assert parse_template(text).shape == shape


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "begins with '/'"),
        ("v1", 1, "begins with '/'"),
        ("{a}", 1, "begins with '/'"),
        ("/", 2, "empty segment"),
        ("/v1/", 5, "empty segment"),
        ("//v1", 2, "empty segment"),
        ("/v1//a", 5, "empty segment"),
        ("/v1/:go", 5, "empty segment"),
        ("/{a=}", 5, "empty segment"),
        ("/{a=x//y}", 7, "empty segment"),
        ("/{a=/x}", 5, "empty segment"),
        ("/v1:", 5, "empty verb"),
        ("/{a}:", 6, "empty verb"),
        ("/v1:a:b", 6, "one verb"),
        ("/**/a", 5, "'**' must be the last"),
        ("/**/**", 5, "'**' must be the last"),
        ("/{a=**}/b", 9, "'**' must be the last"),
        ("/{a=**/b}", 8, "'**' must be the last"),
        ("/{a=**}/{b}", 9, "'**' must be the last"),
        ("/{a={b}}", 5, "do not nest"),
        ("/{a=x/{b}}", 7, "do not nest"),
        ("/{a}/{a}", 7, "stands twice"),
        ("/{a}/{a.b}", 7, "lies in the other"),
        ("/{a.b}/{a}", 9, "lies in the other"),
        ("/{}", 3, "name of a field"),
        ("/{=a}", 3, "name of a field"),
        ("/{a.}", 5, "name of a field"),
        ("/{.a}", 3, "name of a field"),
        ("/{a..b}", 5, "name of a field"),
        ("/{1a}", 3, "digit"),
        ("/{a.1}", 5, "digit"),
        ("/{é}", 3, "name of a field"),
        ("/{a-b}", 4, "'}'"),
        ("/{a", 4, "'}'"),
        ("/{a=*", 6, "'}'"),
        ("/{ a}", 3, "name of a field"),
        ("/{a=b:c}", 6, "verb stands after"),
        ("/a{b}", 3, "joined"),
        ("/{b}a", 5, "joined"),
        ("/{b}{c}", 5, "joined"),
        ("/a*", 3, "joined"),
        ("/*a", 3, "joined"),
        ("/***", 4, "joined"),
        ("/{a=*b}", 6, "'}'"),
        ("/a}", 3, "closes no variable"),
        ("/a b", 3, "may not stand here"),
        ("/a?b", 3, "may not stand here"),
        ("/a#b", 3, "may not stand here"),
        ("/é", 2, "may not stand here"),
        ("/a\n", 3, "may not stand here"),
        ("/a%", 3, "percent sign"),
        ("/a%4", 3, "percent sign"),
        ("/ok%41/a%zz", 9, "percent sign"),
        ("/%FF", 2, "UTF-8"),
        ("/a:%C3", 4, "UTF-8"),
        ("/a/./b", 4, "clients resolve it"),
        ("/a/%2E%2e", 4, "clients resolve it"),
        ("/a:b/c:", 8, "empty verb"),
        ("/" + "a" * TEMPLATE_CHARACTERS_MAX, TEMPLATE_CHARACTERS_MAX + 1, "at most"),
    ],
)
def test_what_is_refused_and_where(text: str, column: int, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(text)
    assert (caught.value.column, says in caught.value.message) == (column, True), caught.value.message
    assert issubclass(TemplateError, MeshError) and issubclass(TemplateError, ValueError)


def test_under_a_prefix() -> None:
    template = parse_template("/{a}/x/{b=**}:go").under("/api/v%31")
    assert template.shape == "/api/v1/*/x/**:go"
    assert template.variables == (Variable("a", 2, 3, False), Variable("b", 4, None, True))
    assert str(template) == "/api/v%31/{a}/x/{b=**}:go"
    assert parse_template("/{a}").under("/") == parse_template("/{a}")


@pytest.mark.parametrize("prefix", ["", "api", "/api/", "//", "/{a}", "/*", "/**", "/a b"])
def test_a_prefix_is_literal(prefix: str) -> None:
    with pytest.raises(TemplateError):
        parse_template("/a").under(prefix)


@QUICK
@given(st.text(alphabet="/{}=*:.%a1 é", max_size=20))
def test_every_text_is_a_template_or_refused_with_a_column_in_it(text: str) -> None:
    template, column = read(text)
    assert 1 <= column <= len(text) + 1
    if template is not None:
        assert parse_template(template.shape).segments == template.segments
        assert "**" not in template.segments[:-1] and "" not in template.segments


def read(text: str) -> tuple[Template | None, int]:
    """What a text denotes, or None and the column where it is refused."""
    try:
        return parse_template(text), 1
    except TemplateError as error:
        return None, error.column


LITERALS = st.text(alphabet="abc-._~09", min_size=1, max_size=4).filter(lambda text: text not in (".", ".."))
PATTERNS = st.lists(st.one_of(LITERALS, st.just("*")), min_size=1, max_size=3)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, Template]:
    """A template as it is written, and what it must mean."""
    pieces: list[str] = []
    segments: list[str] = []
    variables: list[Variable] = []
    count = draw(st.integers(1, 4))
    for i in range(count):
        pattern = draw(PATTERNS)
        is_rest = i == count - 1 and draw(st.booleans())
        if is_rest:
            pattern = [*pattern[:-1], "**"]
        if draw(st.booleans()):
            begin, name = len(segments), f"f{i}.g"
            end = None if is_rest else begin + len(pattern)
            variables.append(Variable(name, begin, end, is_rest or len(pattern) > 1))
            short = pattern == ["*"] and draw(st.booleans())
            pieces.append(f"{{{name}}}" if short else f"{{{name}={'/'.join(pattern)}}}")
        else:
            pieces.append("/".join(pattern))
        segments += pattern
    verb = draw(st.one_of(st.just(""), LITERALS))
    text = "/" + "/".join(pieces) + (f":{verb}" if verb else "")
    return text, Template(text, tuple(segments), verb, tuple(variables))


@QUICK
@given(written())
def test_what_is_written_is_what_is_read(case: tuple[str, Template]) -> None:
    text, expected = case
    assert parse_template(text) == expected
