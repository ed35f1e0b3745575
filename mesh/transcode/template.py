"""The path templates of `google.api.http`: their grammar, checked strictly.

    Template = "/" Segments [ ":" LITERAL ]        Segments  = Segment { "/" Segment }
    Segment  = "*" | "**" | LITERAL | Variable     Variable  = "{" FieldPath [ "=" Segments ] "}"
    FieldPath = IDENT { "." IDENT }

Owns what a template means: which paths it matches segment by segment, and which segments fill which field. Knows
no message types, so whether a field exists is for others to say. Pure. Called by `router` and by what reads rules.

Stricter than the grammar: `**` is last, a variable neither nests nor repeats nor lies inside another's message, and
nothing that no path could ever match is accepted (dot segments, which clients resolve, or bytes that are not UTF-8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mesh.errors import MeshError
from mesh.transcode.path_text import SEGMENT_CHARACTERS, Malformed, canonical

ANY = "*"
"""In `Template.segments`: any one segment."""

REST = "**"
"""In `Template.segments`: all that is left, also if that is nothing. Always last."""

TEMPLATE_CHARACTERS_MAX = 2048

_LITERAL = frozenset(SEGMENT_CHARACTERS + "%") - {"*"}


class TemplateError(MeshError, ValueError):
    """A text is not a path template. `column` is where, from 1."""

    def __init__(self, message: str, column: int, *, hint: str = "") -> None:
        super().__init__(f"column {column}: {message}", hint=hint)
        self.column = column


@dataclass(frozen=True, slots=True)
class Variable:
    """One field that a path fills, from segment `begin` up to `end` (None: all that are left).

    `multi` is how its text is decoded: if its pattern is more than one segment, `%2F` stays as it was sent.
    """

    field_path: str
    begin: int
    end: int | None
    multi: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A checked path template. `segments` are ANY, REST or literals in canonical form; `verb` is "" if it has none."""

    text: str
    segments: tuple[str, ...]
    verb: str
    variables: tuple[Variable, ...]

    def __str__(self) -> str:
        return self.text

    @property
    def shape(self) -> str:
        """The template without its variables: equal for two templates that match the same paths."""
        return "/" + "/".join(self.segments) + (":" + self.verb if self.verb else "")

    def under(self, route_prefix: str) -> Template:
        """Return this template for paths that begin with a prefix of literals, such as "/api" or "/".

        Raises TemplateError if the prefix holds anything else.
        """
        if route_prefix == "/":
            return self
        prefix = parse_template(f"{route_prefix}/{REST}")
        literals = prefix.segments[:-1]
        if not literals or ANY in literals or prefix.variables:
            raise TemplateError("a route prefix has only literal segments", 1)
        shift = len(literals)
        moved = (
            replace(variable, begin=variable.begin + shift, end=None if variable.end is None else variable.end + shift)
            for variable in self.variables
        )
        return replace(self, text=route_prefix + self.text, segments=literals + self.segments, variables=tuple(moved))


def parse_template(text: str) -> Template:
    """Return the template that a text such as "/v1/{name=shelves/*}:close" denotes; raise TemplateError if none."""
    if len(text) > TEMPLATE_CHARACTERS_MAX:
        raise TemplateError(f"a template has at most {TEMPLATE_CHARACTERS_MAX} characters", TEMPLATE_CHARACTERS_MAX + 1)
    return _Parser(text).template()


class _Parser:
    """Reads one template from left to right; `_at` is the next character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._segments: list[str] = []
        self._variables: list[Variable] = []

    def template(self) -> Template:
        if not self._take("/"):
            raise self._error("a template begins with '/'")
        self._segment(nested=False)
        while self._take("/"):
            self._segment(nested=False)
        verb = self._verb()
        if self._at < len(self._text):
            raise self._unexpected()
        return Template(self._text, tuple(self._segments), verb, tuple(self._variables))

    def _segment(self, *, nested: bool) -> None:
        if self._segments and self._segments[-1] == REST:
            raise self._error("'**' must be the last segment", hint="only a verb may follow it")
        if self._take("{"):
            if nested:
                raise self._error("variables do not nest", back=1)
            self._variable()
        elif self._take(REST):
            self._segments.append(REST)
        elif self._take(ANY):
            self._segments.append(ANY)
        else:
            self._literal_segment(nested=nested)

    def _literal_segment(self, *, nested: bool) -> None:
        begin = self._at
        end = self._literal_end()
        if end == begin:
            raise self._unexpected("an empty segment")
        # Only in the last segment does a colon begin a verb; elsewhere it is a character like any other.
        colon = self._text.find(":", begin, end)
        is_last = not self._text.startswith("/", end) and (not nested or self._text[end + 1 :][:1] != "/")
        if colon >= 0 and is_last:
            if nested:
                raise TemplateError("a verb stands after the variable, not in it", colon + 1)
            end = colon
            if end == begin:
                raise self._error("an empty segment before the verb")
        literal = self._canonical(begin, end)
        if literal in (".", ".."):
            raise TemplateError(f"no path has the segment '{literal}': clients resolve it", begin + 1)
        self._segments.append(literal)
        self._at = end

    def _variable(self) -> None:
        opened = self._at
        field_path = self._field_path()
        begin = len(self._segments)
        if self._take("="):
            self._segment(nested=True)
            while self._take("/"):
                self._segment(nested=True)
        else:
            self._segments.append(ANY)
        if not self._take("}"):
            raise self._unexpected(expected="'}' to close the variable")
        self._check_new(field_path, opened)
        is_open = self._segments[-1] == REST
        size = len(self._segments) - begin
        self._variables.append(
            Variable(field_path, begin, None if is_open else begin + size, multi=is_open or size > 1)
        )

    def _field_path(self) -> str:
        begin = self._at
        while True:
            first = self._at
            while self._at < len(self._text) and _is_word(self._text[self._at]):
                self._at += 1
            if self._at == first:
                raise self._unexpected(expected="the name of a field")
            if self._text[first].isdigit():
                raise TemplateError("the name of a field does not begin with a digit", first + 1)
            if not self._take("."):
                return self._text[begin : self._at]

    def _check_new(self, field_path: str, opened: int) -> None:
        for other in (variable.field_path for variable in self._variables):
            if other == field_path:
                raise TemplateError(f"the variable {field_path} stands twice", opened + 1)
            if other.startswith(field_path + ".") or field_path.startswith(other + "."):
                raise TemplateError(f"one of {other} and {field_path} lies in the other", opened + 1)

    def _verb(self) -> str:
        if not self._take(":"):
            return ""
        begin = self._at
        end = self._literal_end()
        if end == begin:
            raise self._unexpected("an empty verb")
        if (colon := self._text.find(":", begin, end)) >= 0:
            raise TemplateError("a template has one verb", colon + 1)
        self._at = end
        return self._canonical(begin, end)

    def _literal_end(self) -> int:
        end = self._at
        while end < len(self._text) and self._text[end] in _LITERAL:
            end += 1
        return end

    def _canonical(self, begin: int, end: int) -> str:
        try:
            return canonical(self._text[begin:end].encode("ascii"))
        except Malformed as error:
            raise TemplateError(f"the literal {error.reason}", begin + error.offset + 1) from None

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        if found:
            self._at += len(text)
        return found

    def _error(self, message: str, *, hint: str = "", back: int = 0) -> TemplateError:
        return TemplateError(message, self._at - back + 1, hint=hint)

    def _unexpected(self, otherwise: str = "", *, expected: str = "") -> TemplateError:
        """Return the error for what stands here; `otherwise` says what it is if nothing forbidden stands here."""
        rest = self._text[self._at :][:1]
        if expected:
            return self._error(f"{expected} must stand here" + (f", not {rest!r}" if rest else ""))
        if otherwise and (not rest or rest in "/:}"):
            return self._error(otherwise)
        if rest in ("{", "*") or self._text[self._at - 1] in "}*":
            return self._error("a variable or wildcard is a whole segment; nothing may be joined to it")
        if rest == "}":
            return self._error("'}' closes no variable")
        return self._error(f"{rest!r} may not stand here", hint="percent-encode it")


def _is_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")
