"""The conformance cases of JSON, query and body: YAML files beside this one, each case one HTTP request.

Reads the files (json.yaml says what stands in them), and compares what came of a case with what it expects. Knows
neither how a request is served nor by whom: `test_cases.py` feeds them to the library, and a live gateway can be fed
the same.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
_UNSET: Any = object()
FILES = ("json", "query", "body")
_REQUEST_KEYS = {"name", "method", "path", "query", "content_type", "body", "body_base64", "options"}
_MADE_KEYS = {"repeat", "prefix", "suffix", "in"}
_OUTCOME_KEYS = {"message", "status", "field"}
_ANSWER_KEYS = {"answer", "answer_has", "answer_lacks", "answer_type", "answer_text", "answer_base64"}
_KEYS = _REQUEST_KEYS | _MADE_KEYS | _OUTCOME_KEYS | _ANSWER_KEYS


@dataclass(frozen=True)
class Case:
    """One request and what must come of it."""

    file: str
    name: str
    method: str
    path: str
    query: str
    content_type: str
    body: bytes
    options: dict[str, bool]
    """Fields of JsonOptions."""
    status: int
    fields: tuple[str, ...]
    """A refusal names one of these; empty: any."""
    message: Any
    """Proto3 JSON of the message that the method receives; `_UNSET`: not compared."""
    raw: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """Name in test reports."""
        return f"{self.file}: {self.name}"

    def check_message(self, received: Any) -> None:
        """Compare what the method received, as proto3 JSON by json_format."""
        if self.message is not _UNSET:
            assert received == self.message

    def check_answer(self, content_type: str, body: bytes) -> None:
        """Compare the answer of a method that echoes its request."""
        assert content_type == self.raw.get("answer_type", "application/json")
        if "answer_text" in self.raw:
            assert body == self.raw["answer_text"].encode()
            return
        if "answer_base64" in self.raw:
            assert body == base64.b64decode(self.raw["answer_base64"])
            return
        answer = json.loads(body)
        if "answer_has" in self.raw:
            assert {key: answer.get(key, _UNSET) for key in self.raw["answer_has"]} == self.raw["answer_has"]
            assert not answer.keys() & set(self.raw["answer_lacks"])
        else:
            expected = self.raw.get("answer", self.message)
            if expected is not _UNSET:
                assert answer == expected


def load() -> list[Case]:
    """Return all cases of all files."""
    found = []
    for file in FILES:
        content = yaml.safe_load((FOLDER / f"{file}.yaml").read_text())
        found += [_case(file, content["defaults"] | raw) for raw in content["cases"]]
    return found


def _case(file: str, raw: dict[str, Any]) -> Case:
    assert raw.keys() <= _KEYS, raw.keys() - _KEYS
    text, query = raw.get("body", ""), raw.get("query", "")
    if "repeat" in raw:
        made = raw.get("prefix", "") + _repeated(**raw["repeat"]) + raw.get("suffix", "")
        text, query = (text, made) if raw.get("in") == "query" else (made, query)
    body = base64.b64decode(raw["body_base64"]) if "body_base64" in raw else text.encode()
    return Case(
        file=file,
        name=raw["name"],
        method=raw["method"],
        path=raw["path"],
        query=query,
        content_type=raw.get("content_type", ""),
        body=body,
        options=raw.get("options", {}),
        status=raw.get("status", 200),
        fields=tuple(raw["field"].split("|")) if "field" in raw else (),
        message=raw.get("message", _UNSET),
        raw=raw,
    )


def _repeated(times: int, open: str = "", middle: str = "", close: str = "") -> str:
    """Return a text that is too long to be written down."""
    return open * times + middle + close * times
