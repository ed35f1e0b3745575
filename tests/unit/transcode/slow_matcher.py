"""A matcher of path templates that is slow and plain: the rule as written, with nothing of the real one in it.

It tries every route on every reading of the path, character by character, and then orders what fits.
"""

from __future__ import annotations

from dataclasses import dataclass

UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
HEX = "0123456789abcdefABCDEF"


@dataclass(frozen=True)
class SlowRoute:
    method: str
    template: str


def slow_match(routes: list[SlowRoute], method: str, path: bytes) -> tuple[object, ...]:
    """Return (200, "METHOD template", captures), (404,), (405, allow) or (400,)."""
    if not well_formed(path):
        return (400,)
    text = path.decode("latin-1")
    fitting = []
    allow: set[str] = set()
    for route in routes:
        template, verb = split_verb(route.template)
        reading = text
        if verb is not None:
            if ":" not in text.split("/")[-1]:
                continue
            reading, _, sent_verb = text.rpartition(":")
            if letters(sent_verb) != letters(verb):
                continue
        sent = reading.split("/")[1:]
        if sent == [""]:
            sent = []
        if "" in sent:
            continue
        pattern = [segment for segment, _ in flat(template)]
        ranks = fit(pattern, sent)
        if ranks is None:
            continue
        allow.add(route.method)
        shape = (verb and letters(verb), [letters(segment) for segment in pattern])
        fitting.append(((verb is None, ranks), shape, route, sent))
    if ("GET" in allow) and routes:
        allow.add("HEAD")
    for _, shape, _, _ in sorted(fitting, key=lambda it: it[0]):
        same = {route.method: (route, sent) for _, other, route, sent in fitting if other == shape}
        for wanted in [method, *(["GET"] if method == "HEAD" else []), "*"]:
            if wanted in same:
                route, sent = same[wanted]
                return (200, f"{route.method} {route.template}", captures(route.template, sent))
    return (405, tuple(sorted(allow))) if allow else (404,)


def fit(pattern: list[str], sent: list[str]) -> list[int] | None:
    """Return how good the pattern is at each segment (0 is best), or None if it does not fit."""
    if not pattern:
        return None if sent else [0]
    if pattern[0] == "**":
        return [3]
    if not sent:
        return None
    if pattern[0] != "*" and letters(pattern[0]) != letters(sent[0]):
        return None
    rest = fit(pattern[1:], sent[1:])
    return None if rest is None else [2 if pattern[0] == "*" else 1, *rest]


def captures(template: str, sent: list[str]) -> tuple[tuple[str, str], ...]:
    pieces = flat(split_verb(template)[0])
    names = list(dict.fromkeys(name for _, name in pieces if name))
    found = []
    for name in names:
        own = [i for i, (_, other) in enumerate(pieces) if other == name]
        if pieces[own[-1]][0] == "**":
            found.append((name, "/".join(decode(it, keep_slash=True) for it in sent[own[0] :])))
        else:
            found.append((name, "/".join(decode(sent[i], keep_slash=len(own) > 1) for i in own)))
    return tuple(found)


def flat(template: str) -> list[tuple[str, str]]:
    """Return each segment of a template with the name of the variable that it belongs to."""
    found, name, segment = [], "", ""
    characters = iter(template[1:] + "/")
    for character in characters:
        if character == "{":
            name = ""
            for character in characters:
                if character in "=}":
                    break
                name += character
            if character == "}":
                segment = "*"
                found.append((segment, name))
                name, segment = "", ""
                next(characters)
        elif character == "}":
            found.append((segment, name))
            name, segment = "", ""
            next(characters)
        elif character == "/":
            found.append((segment, name))
            segment = ""
        else:
            segment += character
    return found


def split_verb(template: str) -> tuple[str, str | None]:
    last = template.split("/")[-1]
    colon = last.rfind(":")
    if colon < 0 or "}" in last[colon:]:
        return template, None
    return template[: len(template) - len(last) + colon], last[colon + 1 :]


def letters(text: str) -> list[str]:
    """Return a text as what counts when compared: unreserved characters plain, all others encoded unless allowed."""
    found = []
    while text:
        if text[0] == "%":
            character = chr(int(text[1:3], 16))
            found.append(character if character in UNRESERVED else "%" + text[1:3].upper())
            text = text[3:]
        else:
            allowed = text[0] in UNRESERVED or text[0] in "!$&'()*+,;=:@"
            found.append(text[0] if allowed else f"%{ord(text[0]):02X}")
            text = text[1:]
    return found


def decode(sent: str, *, keep_slash: bool) -> str:
    found = b""
    while sent:
        if sent[0] == "%" and not (keep_slash and sent[1:3].lower() == "2f"):
            found += bytes([int(sent[1:3], 16)])
            sent = sent[3:]
        else:
            found += sent[0].encode("latin-1")
            sent = sent[1:]
    return found.decode("utf-8")


def well_formed(path: bytes) -> bool:
    if path[:1] != b"/" or any(byte <= 32 or byte in (127, 35, 63) for byte in path):
        return False
    text = path.decode("latin-1")
    for i, character in enumerate(text):
        if character == "%" and not (len(text[i + 1 : i + 3]) == 2 and all(it in HEX for it in text[i + 1 : i + 3])):
            return False
    try:
        decode(text, keep_slash=False)
    except UnicodeDecodeError:
        return False
    return True
