from __future__ import annotations

from typing import Any

import pytest

import mesh
from mesh.errors import InvalidConfig
from mesh.model import Cors, DeploymentConfig, DeploymentSettings, JsonOptions
from mesh.serving.cors import cors_problems, resolved
from mesh.serving.options import as_fields, option_problems, resolve


class Target:
    pass


def wrong(options: Any) -> list[tuple[str, str, str]]:
    return [(p.field, p.message, p.hint) for p in option_problems({"json": options}, at="D")]


@pytest.mark.parametrize("options", [None, {}, {"emit_defaults": True, "proto_names": False, "enums_as_numbers": True}])
def test_json_options(options: Any) -> None:
    assert wrong(options) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"proto_name": True}, ("D.json.proto_name", "unknown key 'proto_name'", "did you mean 'proto_names'?")),
        (
            {"x": True},
            ("D.json.x", "unknown key 'x'", "known: emit_defaults, enums_as_numbers, proto_names"),
        ),
        ({1: True}, ("D.json.1", "unknown key 1", "known: emit_defaults, enums_as_numbers, proto_names")),
        ({"proto_names": 1}, ("D.json.proto_names", "must be true or false, not 1", "write true or false")),
        ({"proto_names": None}, ("D.json.proto_names", "must be true or false, not None", "write true or false")),
        (
            True,
            (
                "D.json",
                "must be a mapping, not True",
                "write a mapping of emit_defaults, proto_names, enums_as_numbers to true or false",
            ),
        ),
    ],
)  # fmt: skip
def test_wrong_json_options(options: Any, problem: tuple[str, str, str]) -> None:
    assert wrong(options) == [problem]


def test_an_unknown_option_is_told_the_nearest() -> None:
    (problem,) = option_problems({"jsn": {}})
    assert problem.hint == "did you mean 'json'?"


def test_json_options_in_code() -> None:
    declared = mesh.deployment(json={"emit_defaults": True})(Target)
    assert declared.config == DeploymentConfig("Target", json=JsonOptions(emit_defaults=True))
    more = declared.options(json={"emit_defaults": False, "proto_names": True})
    assert more.config.json == JsonOptions(emit_defaults=False, proto_names=True)
    assert declared.options(json={}).config.json == JsonOptions(emit_defaults=True)
    assert declared.options(num_replicas=2).config.json == JsonOptions(emit_defaults=True)
    with pytest.raises(InvalidConfig, match=r"Target.json.emit_defalts"):
        mesh.deployment(json={"emit_defalts": True})(Target)


def test_the_config_wins_key_by_key() -> None:
    code = DeploymentConfig("D", json=JsonOptions(emit_defaults=True, proto_names=True))
    override = DeploymentConfig("D", json=JsonOptions(proto_names=False))
    assert resolve(code, override).json == JsonOptions(emit_defaults=True, proto_names=False)
    assert resolve(code, None).json == code.json
    assert resolve(DeploymentConfig("D"), override).json == override.json
    assert resolve(DeploymentConfig("D"), None) == DeploymentSettings()


def test_options_as_fields() -> None:
    assert as_fields({"num_replicas": None, "user_config": {"b": 1, "a": None}, "json": {"proto_names": True}}) == {
        "user_config_json": '{"a": null, "b": 1}',
        "json": JsonOptions(proto_names=True),
    }


# Cors


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://app.example.com",
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
        "capacitor://localhost",
        "https://my_host",
        "https://xn--bcher-kva.example",
        "http://a:443",
    ],
)
def test_origins(origin: str) -> None:
    assert list(cors_problems(Cors((origin,)), at="c")) == []


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "app.example.com",
        "https://",
        "https://App.example.com",
        "HTTPS://app.example.com",
        "https://app.example.com/",
        "https://app.example.com/x",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "http://a:0",
        "http://a:65536",
        "http://a:",
        "http://a..b",
        "https://*.example.com",
        "https://user@a",
        "https://a\n",
        "https://" + "a" * 400,
    ],
)
def test_what_is_no_origin(origin: str) -> None:
    (problem,) = cors_problems(Cors(("*", origin)), at="c")
    assert problem.field == "c.allow_origins[1]" and problem.hint


def test_other_rules_of_cors() -> None:
    def fields(cors: Cors) -> list[str]:
        return [problem.field for problem in cors_problems(cors, at="c")]

    assert fields(Cors((), ("X-Api-Key", "*"), 0, True)) == []
    assert fields(Cors((), ("", "a b", "ä", "x:", "n" * 301))) == [f"c.allow_headers[{i}]" for i in range(5)]
    assert fields(Cors(max_age_s=-1)) == fields(Cors(max_age_s=86_401)) == ["c.max_age_s"]
    assert fields(Cors(("https://a", "*"), allow_credentials=True)) == ["c.allow_credentials"]
    assert fields(Cors(("https://a",), allow_credentials=True)) == []
    assert fields(Cors(("x",) * 101)) == ["c.allow_origins"]
    assert fields(Cors((), ("x",) * 101)) == ["c.allow_headers"]


def test_cors_without_origins_is_off() -> None:
    assert resolved(Cors()) is None
    assert resolved(Cors(("*",))) == Cors(("*",), (), 600, False)
