"""The config file: what is read, what is refused and where, and that a goal state comes back as it went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import wire
from mesh.cli import config_file, strict_yaml
from mesh.cli.config_file import Config, GrpcOptions, HttpOptions, InvalidFile, Surroundings
from mesh.errors import InvalidConfig, NotFound, Problem
from mesh.model import ApplicationConfig, Cors, DeploymentConfig, JsonOptions, RuntimeEnv
from mesh.v1 import deployment_pb2 as pb

BASE = Surroundings("/base")
FULL = """\
http_options: {host: 0.0.0.0, port: 8080, request_timeout_s: 30, cors: {allow_origins: ["*"], allow_headers: [X-A]}}
grpc_options:
  port: 9090
applications:
  - name: default
    route_prefix: /
    import_path: slow:app
    runtime_env:
      working_dir: code
      py_modules: [/abs, ../lib]
      env_vars: {COUNTRY: no, EMPTY: ""}
    args: {size: 3, names: [a, b], nested: {deep: null}}
    deployments:
      - name: SlowDeployment
        num_replicas: 1
        max_ongoing_requests: 2
        max_queued_requests: -1
        request_timeout_s: 2.5
        user_config: {threshold: 0.5, on: yes}
      - {name: Other, max_queued_requests: 0, json: {emit_defaults: true, proto_names: false}}
  - name: second
    route_prefix: /second
    import_path: pkg.mod:make
"""


def parse(text: str) -> Config:
    return config_file.parse(text, path="mesh.yaml", surroundings=BASE).config


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    return [
        f"{fault.place.line}:{fault.place.column}: {fault.problem.field}: {fault.problem.message}"
        for fault in caught.value.faults
    ]


def hints(text: str) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    return [fault.problem.hint for fault in caught.value.faults]


def test_reads_every_field() -> None:
    config = parse(FULL)
    assert config.http_options == HttpOptions("0.0.0.0", 8080, 30, Cors(("*",), ("X-A",)))
    assert config.grpc_options == GrpcOptions(9090)
    first, second = config.applications
    assert first.name == "default"
    assert first.route_prefix == "/"
    assert first.import_path == "slow:app"
    assert first.runtime_env.working_dir == "/base/code"
    assert first.runtime_env.py_modules == ("/abs", "/lib")
    assert json.loads(first.args_json) == {"size": 3, "names": ["a", "b"], "nested": {"deep": None}}
    slow, other = first.deployments
    assert slow == DeploymentConfig(
        name="SlowDeployment",
        num_replicas=1,
        max_ongoing_requests=2,
        max_queued_requests=-1,
        request_timeout_s=2.5,
        user_config_json='{"on": "yes", "threshold": 0.5}',
    )
    assert other == DeploymentConfig(name="Other", max_queued_requests=0, json=JsonOptions(True, False))
    assert second == ApplicationConfig(
        name="second", route_prefix="/second", import_path="pkg.mod:make", runtime_env=RuntimeEnv(working_dir="/base")
    )


def test_words_of_yaml_1_1_are_text() -> None:
    config = parse(FULL)
    assert config.applications[0].runtime_env.env_vars == {"COUNTRY": "no", "EMPTY": ""}


def test_defaults_of_an_application() -> None:
    (application,) = parse("applications: [{import_path: 'a:b'}]").applications
    assert (application.name, application.route_prefix, application.args_json) == ("default", "/", "")
    assert application.runtime_env == RuntimeEnv(working_dir="/base")


def test_null_route_means_not_over_http() -> None:
    (application,) = parse("applications: [{import_path: 'a:b', route_prefix: null}]").applications
    assert application.route_prefix == ""


def test_an_option_without_a_value_is_not_set() -> None:
    (application,) = parse(
        "applications: [{import_path: 'a:b', deployments: [{name: D, num_replicas: }]}]"
    ).applications
    assert application.deployments == (DeploymentConfig(name="D"),)


def test_no_applications_is_a_config() -> None:
    assert parse("applications: []") == Config()


def test_json_is_a_config_file() -> None:
    data = {"applications": [{"name": "x", "import_path": "a:b", "args": {"k": "é\n\u2028"}}]}
    (application,) = parse(json.dumps(data, indent=2)).applications
    assert json.loads(application.args_json) == {"k": "é\n\u2028"}


def test_an_alias_stands_for_its_value() -> None:
    text = """\
applications:
- {import_path: 'a:b', deployments: [&d {name: D}]}
- {name: y, route_prefix: /y, import_path: 'a:c', deployments: [*d]}
"""
    first, second = parse(text).applications
    assert first.deployments == second.deployments


APPLICATION = "applications:\n- import_path: a:b\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1:1: : is empty"]),
        ("# nothing\n", ["1:1: : is empty"]),
        ("[]", ["1:1: : must be a mapping of keys to values, not a list"]),
        ("slow:app", ["1:1: : must be a mapping of keys to values, not 'slow:app'"]),
        ("http_options: {}", ["1:1: applications: is missing"]),
        ("applications: ", ["1:14: applications: must be a list, not nothing"]),
        ("applications: {}", ["1:15: applications: must be a list, not a mapping"]),
        ("applications: [x]", ["1:16: applications[0]: must be a mapping of keys to values, not 'x'"]),
        ("applications:\n- name: x\n", ["2:3: applications[0].import_path: is missing"]),
        ("applicatons: []", ["1:1: applicatons: unknown key 'applicatons'", "1:1: applications: is missing"]),
        (APPLICATION + "  nmae: x\n", ["3:3: applications[0].nmae: unknown key 'nmae'"]),
        (APPLICATION + "  name: 5\n", ["3:9: applications[0].name: must be text, not 5"]),
        (APPLICATION + "  name: true\n", ["3:9: applications[0].name: must be text, not true"]),
        (
            APPLICATION + "  name: a/b\n",
            [
                "3:9: applications[0].name: must be 1 to 63 letters, digits, '-', '_' or '.', "
                "with a letter or digit at each end, not 'a/b'"
            ],
        ),
        (APPLICATION + "  route_prefix: x\n", ["3:17: applications[0].route_prefix: must start with '/', not 'x'"]),
        (
            "applications:\n  - import_path: app.py\n",
            ["2:18: applications[0].import_path: must look like 'package.module:attribute', not 'app.py'"],
        ),
        (
            APPLICATION + "- import_path: c:d\n  route_prefix: /d\n",
            ["3:3: applications[1].name: name 'default' stands twice (also in applications[0])"],
        ),
        (
            APPLICATION + "- import_path: c:d\n  name: d\n  route_prefix: /\n",
            ["5:17: applications[1].route_prefix: route_prefix '/' stands twice (also in applications[0])"],
        ),
        (
            APPLICATION + "  deployments:\n  - name: D\n    num_replica: 2\n",
            ["5:5: applications[0].deployments[0].num_replica: unknown key 'num_replica'"],
        ),
        (
            APPLICATION + "  deployments:\n  - name: D\n    num_replicas: two\n",
            ["5:19: applications[0].deployments[0].num_replicas: must be a whole number, not 'two'"],
        ),
        (
            APPLICATION + "  deployments:\n  - name: D\n    num_replicas: 1.5\n",
            ["5:19: applications[0].deployments[0].num_replicas: must be a whole number, not 1.5"],
        ),
        (
            APPLICATION + "  deployments:\n  - name: D\n    max_queued_requests: -2\n",
            [
                "5:26: applications[0].deployments[0].max_queued_requests: must be a whole number from -1 to 1000000 "
                "(-1: unlimited, 0: never queue), not -2"
            ],
        ),
        (
            APPLICATION + "  deployments:\n  - {name: D}\n  - {name: D}\n",
            [
                "5:12: applications[0].deployments[1].name: 'D' stands twice (also in applications[0].deployments[0])"
            ],
        ),
        (
            APPLICATION + "  deployments:\n  - num_replicas: 1\n",
            ["4:5: applications[0].deployments[0].name: is missing"],
        ),
        (
            APPLICATION + "  deployments:\n    D: {}\n",
            ["4:5: applications[0].deployments: must be a list, not a mapping"],
        ),
        (
            APPLICATION + "  runtime_env: {env_vars: {DEBUG: 1}}\n",
            ["3:35: applications[0].runtime_env.env_vars.DEBUG: must be text"],
        ),
        (
            APPLICATION + "  runtime_env: {workdir: x}\n",
            ["3:17: applications[0].runtime_env.workdir: unknown key 'workdir'"],
        ),
        (
            APPLICATION + "  runtime_env: {pip: [numpy, 'numpy >']}\n",
            ["3:30: applications[0].runtime_env.pip[1]: is no requirement"],
        ),
        (
            APPLICATION + "  runtime_env: {py_modules: [1, x, null]}\n",
            [
                "3:30: applications[0].runtime_env.py_modules[0]: must be text, not 1",
                "3:36: applications[0].runtime_env.py_modules[2]: must be text, not nothing",
            ],
        ),
        (APPLICATION + "  args: [1]\n", ["3:9: applications[0].args: must be a mapping of keys to values, not a list"]),
        (
            APPLICATION + "  args: {x: .nan}\n",
            ["3:9: applications[0].args: must be JSON values, which .inf and .nan are not"],
        ),
        (
            APPLICATION + "http_options: {port: 70000, prot: 1}\n",
            [
                "3:22: http_options.port: must be a whole number from 0 to 65535 (0: a free one), not 70000",
                "3:29: http_options.prot: unknown key 'prot'",
            ],
        ),
        (APPLICATION + "http_options: {port: '80'}\n", ["3:22: http_options.port: must be a whole number, not '80'"]),
        (APPLICATION + "http_options: {host: 1}\n", ["3:22: http_options.host: must be text, not 1"]),
        (APPLICATION + "http_options: {cors: {}}\n", ["3:22: http_options.cors.allow_origins: is missing"]),
        (
            APPLICATION + "http_options: {cors: true}\n",
            ["3:22: http_options.cors: must be a mapping of keys to values, not true"],
        ),
        (
            APPLICATION + "http_options: {cors: {allow_origins: '*', max_age: 5}}\n",
            [
                "3:38: http_options.cors.allow_origins: must be a list, not '*'",
                "3:43: http_options.cors.max_age: unknown key 'max_age'",
            ],
        ),
        (
            APPLICATION + "http_options: {cors: {allow_origins: ['*', a.example], max_age_s: 0.5}}\n",
            ["3:67: http_options.cors.max_age_s: must be a whole number, not 0.5"],
        ),
        (
            APPLICATION + "http_options: {cors: {allow_origins: ['*', a.example], allow_credentials: true}}\n",
            [
                "3:44: http_options.cors.allow_origins[1]: must be '*' or scheme://host[:port] in lower case, "
                "not 'a.example'",
                "3:75: http_options.cors.allow_credentials: cannot be had with the origin '*': any page could act "
                "in a user's name",
            ],
        ),
        (
            APPLICATION + "http_options: {cors: {allow_origins: [], allow_credentials: yes}}\n",
            ["3:61: http_options.cors.allow_credentials: must be true or false, not 'yes'"],
        ),
        (
            APPLICATION + "  deployments:\n  - name: D\n    json: {emit_default: true, proto_names: 1}\n",
            [
                "5:12: applications[0].deployments[0].json.emit_default: unknown key 'emit_default'",
                "5:45: applications[0].deployments[0].json.proto_names: must be true or false, not 1",
            ],
        ),
        (
            APPLICATION + "  deployments:\n  - {name: D, json: [emit_defaults]}\n",
            ["4:21: applications[0].deployments[0].json: must be a mapping, not ['emit_defaults']"],
        ),
        (APPLICATION + "grpc_options: 9000\n", ["3:15: grpc_options: must be a mapping of keys to values, not 9000"]),
        (APPLICATION + "  name: x\n  name: y\n", ["4:3: applications[0].name: stands twice (also in line 3)"]),
        (APPLICATION + "applications: []\n", ["3:1: applications: stands twice (also in line 1)"]),
        (APPLICATION + "  1: x\n", ["3:3: applications[0]: a key must be text, not 1"]),
        (APPLICATION + "  ? [x]\n  : y\n", ["3:5: applications[0]: a key must be text, not a list or mapping"]),
        ("applications: [", ["2:1: : is not YAML: did not find expected node content"]),
        (
            "a:\n- {b: c\n- x",
            [
                "4:1: : is not YAML: did not find expected ',' or '}', "
                "while parsing a flow mapping that begins in line 2"
            ],
        ),
        ("applications:\n\t- x", ["2:1: : is not YAML: a tab may not stand here"]),
        ("a: b: c", ["1:5: : is not YAML: mapping values are not allowed in this context"]),
        ("a: @x", ["1:4: : is not YAML: '@' may not stand here"]),
        ("a: 1\n---\nb: 2\n", ["2:1: : is not YAML: a second document begins here; one file holds one"]),
        ("a: *x", ["1:4: : is not YAML: found undefined alias"]),
        ("a:\n  é: \x00", ["2:6: : is not YAML: character 0x0000 may not stand here"]),
        ("a: !!python/name:os.system x", ["1:4: a: has the tag '!!python/name:os.system', which does not fit here"]),
        ("a: !secret x", ["1:4: a: has the tag '!secret', which does not fit here"]),
        ("a: !!set {x}", ["1:4: a: has the tag '!!set', which does not fit here"]),
        ("a: !!int x", ["1:4: a: has the tag '!!int', which does not fit here"]),
        ("[" * 100_000, ["1:51: : is nested more than 50 levels deep"]),
        ("a: &a [*a]", ["1:4: : grows too large through its aliases"]),
        ("a: " + "9" * 200, ["1:4: a: has too many digits"]),
    ],
)  # fmt: skip
def test_refuses_with_the_place(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


def test_reports_all_problems_in_the_order_of_the_file() -> None:
    text = """\
http_options:
  port: x
applications:
  - import_path: nope
    name: -a
    deployments:
      - {name: D, num_replicas: -1, user: 1}
"""
    assert [line.split(" ")[0] for line in faults(text)] == ["2:9:", "4:18:", "5:11:", "7:33:", "7:37:"]


def test_a_wrong_name_is_not_also_reported_as_repeated() -> None:
    text = "applications:\n- {import_path: 'a:b', name: 1}\n- {import_path: 'a:b', name: 2, route_prefix: /x}\n"
    assert [line.split(" ", 1)[1] for line in faults(text)] == [
        "applications[0].name: must be text, not 1",
        "applications[1].name: must be text, not 2",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (APPLICATION + "  nmae: x\n", "did you mean 'name'?"),
        (APPLICATION + "  deployments: [{name: D, num_replica: 2}]\n", "did you mean 'num_replicas'?"),
        (APPLICATION + "  name: 5\n", 'put it in quotes: "5"'),
        ("applications:\n\t- x", "indent with spaces"),
        ("a: `x`", "put the text in quotes"),
        (APPLICATION + "  deployments: [{name: D, json: {emit_default: yes}}]\n", "did you mean 'emit_defaults'?"),
        (APPLICATION + "http_options: {qqq: 1}\n", "known: cors, host, port, request_timeout_s"),
    ],
)
def test_says_how_to_mend_it(text: str, hint: str) -> None:
    assert hints(text) == [hint]


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (message,) = faults("\n".join(lines))
    assert message.endswith("grows too large through its aliases")


def test_decode_refuses_what_is_not_utf_8() -> None:
    with pytest.raises(InvalidFile) as caught:
        config_file.decode(b"a: 1\nb: \xff\n", path="x.yaml", surroundings=BASE)
    (fault,) = caught.value.faults
    assert (fault.place.line, fault.place.column, fault.problem.message) == (2, 4, "is not UTF-8 text")


def test_decode_takes_a_byte_order_mark() -> None:
    assert config_file.decode(b"\xef\xbb\xbfapplications: []", path="x.yaml", surroundings=BASE).config == Config()


def test_decode_refuses_a_huge_file() -> None:
    with pytest.raises(InvalidFile, match="larger than 1024 KiB"):
        config_file.decode(b"#" * (config_file.BYTES_MAX + 1), path="x.yaml", surroundings=BASE)


def test_read_takes_paths_from_the_files_directory(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("applications: [{import_path: 'a:b', runtime_env: {working_dir: code}}]")
    (application,) = config_file.read(path).config.applications
    assert application.runtime_env.working_dir == str(tmp_path / "code")


def test_read_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no config file"):
        config_file.read(tmp_path / "mesh.yaml")
    with pytest.raises(InvalidConfig, match="Is a directory"):
        config_file.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("applications[0].deployments[0].num_replicas", (15, 23)),
        ("applications[0].deployments[1]", (20, 9)),
        ("applications[1].deployments[3].name", (21, 5)),
        ("applications[0].runtime_env.pip", (9, 7)),
        ("applications[7].name", (5, 3)),
        ("http_options.port", (1, 37)),
        ("nowhere", (1, 1)),
        ("", (1, 1)),
    ],
)
def test_problems_found_elsewhere_get_a_place(field: str, place: tuple[int, int]) -> None:
    file = config_file.parse(FULL, path="mesh.yaml", surroundings=BASE)
    (fault,) = file.located(InvalidConfig((Problem(field, "is wrong", "mend it"),))).faults
    assert (fault.place.line, fault.place.column) == place
    assert (fault.problem.message, fault.problem.hint) == ("is wrong", "mend it")


def test_what_is_rendered_reads_back_the_same() -> None:
    config = parse(FULL)
    text = config_file.render(config)
    assert parse(text) == config
    assert config_file.render(parse(text)) == text


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12) | st.sampled_from(
    [
        "no",
        "on",
        "y",
        "null",
        "~",
        "0o14",
        "012",
        "1e5",
        "1:30",
        ".5",
        "+1",
        "2026-01-01",
        "=",
        "<<",
        "- a",
        "a: b",
        "#",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_TEXT, _JSON, max_size=4))
def test_any_data_survives_dump_and_parse(data: dict[str, Any]) -> None:
    document = strict_yaml.parse(strict_yaml.dump(data))
    assert document.faults == []
    assert document.value == (data or {})


_MAYBE = st.none() | st.booleans()
_JSON_OPTIONS = st.none() | st.builds(JsonOptions, _MAYBE, _MAYBE, _MAYBE)
_ORIGINS = st.lists(st.sampled_from(["https://a.example", "http://b:1"]), max_size=2).map(tuple)
_HEADERS = st.lists(st.sampled_from(["X-A", "*"]), max_size=2).map(tuple)
_CORS = st.none() | st.builds(Cors, _ORIGINS, _HEADERS, st.none() | st.integers(0, 86_400), _MAYBE)


_VARIABLE = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
_ENV_VARS = st.dictionaries(
    _VARIABLE,
    st.tuples(st.just("env_vars"), _TEXT)
    | st.tuples(st.just("env_vars_from_env"), _VARIABLE)
    | st.tuples(st.just("env_vars_from_file"), st.sampled_from(["/run/secrets/a", "/no", "/a b: c"])),
    max_size=4,
)


@given(_JSON, _ENV_VARS, st.none() | st.integers(-1, 10), _JSON_OPTIONS, _CORS)
def test_any_goal_state_survives_the_way_through_the_control_plane(
    user_config: Any,
    env_vars: dict[str, tuple[str, str]],
    queued: int | None,
    options: JsonOptions | None,
    cors: Cors | None,
) -> None:
    by_field: dict[str, dict[str, str]] = {"env_vars": {}, "env_vars_from_env": {}, "env_vars_from_file": {}}
    for name, (field, value) in env_vars.items():
        by_field[field][name] = value
    application = ApplicationConfig(
        name="a",
        route_prefix="/a",
        import_path="m:a",
        runtime_env=RuntimeEnv(working_dir="/w", **by_field),  # type: ignore[arg-type]
        args_json=json.dumps({"x": user_config}, sort_keys=True),
        deployments=(
            DeploymentConfig(
                name="D",
                max_queued_requests=queued,
                json=options,
                user_config_json=None if user_config is None else json.dumps(user_config, sort_keys=True),
            ),
        ),
        code_version="v1",
    )
    config = Config(http_options=HttpOptions(port=1, cors=cors), applications=(application,))
    returned = wire.from_proto(wire.to_proto(config, pb.Config), Config)
    assert parse(config_file.render(returned)) == config


def test_places_of_code_are_left_as_they_are_and_judged() -> None:
    head = "applications:\n- import_path: a:b\n  runtime_env:\n"
    good = head + "    working_dir: local:///srv/app\n    py_modules: [lib, 'https://example.com/a.whl']\n"
    env = config_file.parse(good, path="m.yaml", surroundings=Surroundings("/d")).config.applications[0].runtime_env
    assert (env.working_dir, env.py_modules) == ("local:///srv/app", ("/d/lib", "https://example.com/a.whl"))
    with pytest.raises(config_file.InvalidFile) as caught:
        config_file.parse(head + "    working_dir: file:///srv/app\n", path="m.yaml", surroundings=Surroundings("/d"))
    fault = caught.value.faults[0]
    assert (fault.place.line, fault.problem.field) == (4, "applications[0].runtime_env.working_dir")
    assert fault.problem.refused
