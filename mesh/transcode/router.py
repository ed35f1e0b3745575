"""Which route a request takes: the matcher of path templates.

Owns the matching rule, the priority of routes that overlap, and the text that a path gives to each field. Knows
nothing of what a route leads to. Pure. Called by the gateway for each request, and wherever routes are checked.

The rule. The path is matched as sent, segment by segment; each is decoded once, and only in what it gives to fields.
At each segment a literal goes before `*`, that before `**`, with a step back where that leads nowhere; the order of
the routes never counts. Of the routes, those with the request's method: HEAD runs GET where there is no HEAD, a route
with the method "*" takes those that are left. What follows the last plain colon is a verb if that gives a route, and
else text. Empty segments match nothing.

The cost. The templates form one tree per verb, and `**` only ever ends a template, so the search meets each node of
the tree at most once, at the one depth it has: the steps are bounded by the templates, not by the path. What remains
is splitting and reading the path once, which is linear, without recursion and without a regular expression.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from mesh.errors import MeshError
from mesh.transcode.path_text import PLAIN, Malformed, canonical, decoded, decoded_but_slashes
from mesh.transcode.template import ANY, REST, Template

T = TypeVar("T")

ANY_METHOD = "*"
"""As `Route.http_method`: every method for which the same template has no route of its own."""

_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")


class InvalidRoute(MeshError, ValueError):
    """A route cannot be served."""


class DuplicateRoute(InvalidRoute):
    """Two routes have the same method and match the same paths."""

    def __init__(self, first: Route[Any], second: Route[Any]) -> None:
        super().__init__(f"{first} and {second} are the same route", hint="change one of the two templates")
        self.first = first
        self.second = second


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """An HTTP method (case counts; "*" is any), a template, and what they lead to."""

    http_method: str
    template: Template
    value: T

    def __post_init__(self) -> None:
        if not self.http_method or not _TOKEN.issuperset(self.http_method):
            raise InvalidRoute(f"{self.http_method!r} is no HTTP method")

    def __str__(self) -> str:
        return f"{self.http_method} {self.template}"


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """The route's value, and each field path with its decoded text, in the order of the template."""

    value: T
    captures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NoSuchPath:
    """No route has this path: 404."""


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """The path is known, the method is not: 405. `allow` is for the header of that name, sorted."""

    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MalformedPath:
    """The path is not well-formed, so that no route may see it: 400. `reason` follows "the path"."""

    reason: str


_NO_SUCH_PATH = NoSuchPath()

_Leaf: TypeAlias = dict[str, Route[T]]


class _Node(Generic[T]):
    """A place in the tree of templates: where each kind of next segment leads, and what ends here."""

    __slots__ = ("any", "leaf", "literals", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.any: _Node[T] | None = None
        self.rest: _Node[T] | None = None
        self.leaf: _Leaf[T] | None = None


_Reading: TypeAlias = tuple[_Node[T], list[str]]


class Router(Generic[T]):
    """Finds the route of a path. Never changes once built."""

    def __init__(self, routes: Iterable[Route[T]]) -> None:
        """Raises DuplicateRoute, which names both."""
        self._plain: _Node[T] = _Node()
        self._verbs: dict[str, _Node[T]] = {}
        leaves = []
        for route in routes:
            verb = route.template.verb
            leaf = _leaf_of(self._verbs.setdefault(verb, _Node()) if verb else self._plain, route.template)
            if (first := leaf.get(route.http_method)) is not None:
                raise DuplicateRoute(first, route)
            leaf[route.http_method] = route
            leaves.append(leaf)
        for leaf in leaves:
            if "GET" in leaf:
                leaf.setdefault("HEAD", leaf["GET"])

    def match(self, http_method: str, raw_path: bytes) -> Match[T] | NoSuchPath | WrongMethod | MalformedPath:
        """Return what a request leads to. `raw_path` is as sent: percent-encoded, without the query."""
        is_plain = not raw_path.translate(None, PLAIN)
        try:
            path = raw_path.decode("ascii") if is_plain else canonical(raw_path)
        except Malformed as error:
            return MalformedPath(error.reason)
        if not path.startswith("/"):
            return MalformedPath("does not begin with a slash")
        readings = self._readings(path)
        for tree, keys in readings:
            for leaf in _leaves(tree, keys):
                route = leaf.get(http_method) or leaf.get(ANY_METHOD)
                if route is not None:
                    return Match(route.value, _captures(route.template, keys if is_plain else _sent(route, raw_path)))
        allow = _methods(readings)
        return WrongMethod(allow) if allow else _NO_SUCH_PATH

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """Return the methods of a path, sorted, for Allow and OPTIONS; none if there is no such path.

        ANY_METHOD among them stands for all others.
        """
        try:
            path = canonical(raw_path)
        except Malformed:
            return ()
        return _methods(self._readings(path)) if path.startswith("/") else ()

    def _readings(self, path: str) -> list[_Reading[T]]:
        """Return how a canonical path can be read, best first: with a verb that some template has, and as it is."""
        readings: list[_Reading[T]] = []
        if self._verbs and (colon := path.rfind(":")) > path.rfind("/"):
            tree = self._verbs.get(path[colon + 1 :])
            if tree is not None and (keys := _split(path[:colon])) is not None:
                readings.append((tree, keys))
        if (keys := _split(path)) is not None:
            readings.append((self._plain, keys))
        return readings


def _split(path: str) -> list[str] | None:
    """Return the segments of a path; None if one of them is empty. The path "/" has none."""
    if len(path) == 1:
        return []
    if path.endswith("/") or "//" in path:
        return None
    return path[1:].split("/")


def _leaves(tree: _Node[T], keys: list[str]) -> Iterator[_Leaf[T]]:
    """Yield what ends at these segments, best first."""
    count = len(keys)
    pending: list[tuple[_Node[T], int]] = [(tree, 0)]
    while pending:
        node: _Node[T] | None
        node, depth = pending.pop()
        # A step goes to the best; what comes after it is put off, the worst first. `**` takes all that is left at once.
        while node is not None and depth < count:
            if node.rest is not None:
                pending.append((node.rest, count))
            literal = node.literals.get(keys[depth])
            depth += 1
            if literal is None:
                node = node.any
            else:
                if node.any is not None:
                    pending.append((node.any, depth))
                node = literal
        if node is not None:
            if node.leaf is not None:
                yield node.leaf
            if node.rest is not None and node.rest.leaf is not None:
                yield node.rest.leaf


def _methods(readings: list[_Reading[T]]) -> tuple[str, ...]:
    return tuple(sorted({method for tree, keys in readings for leaf in _leaves(tree, keys) for method in leaf}))


def _leaf_of(tree: _Node[T], template: Template) -> _Leaf[T]:
    """Return where a template ends in the tree; what is missing there grows."""
    node = tree
    for segment in template.segments:
        if segment == ANY:
            node.any = node.any or _Node()
            node = node.any
        elif segment == REST:
            node.rest = node.rest or _Node()
            node = node.rest
        else:
            node = node.literals.setdefault(segment, _Node())
    if node.leaf is None:
        node.leaf = {}
    return node.leaf


def _sent(route: Route[T], raw_path: bytes) -> list[str]:
    """Return the segments as sent, their bytes as Latin-1 text, without the verb that the route has."""
    end = raw_path.rfind(b":") if route.template.verb else len(raw_path)
    return raw_path[1:end].decode("latin-1").split("/")


def _captures(template: Template, sent: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the text of each field."""
    found = []
    for variable in template.variables:
        if not variable.multi:
            text = decoded(sent[variable.begin])
        else:
            text = decoded_but_slashes("/".join(sent[variable.begin : variable.end]))
        found.append((variable.field_path, text))
    return tuple(found)
