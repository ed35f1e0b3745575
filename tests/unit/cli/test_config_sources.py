"""What a config file takes from elsewhere: variables where it asks for them, requirements files, secrets by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mesh.cli import config_file, requirements, strict_yaml
from mesh.cli.config_file import InvalidFile, Surroundings
from mesh.cli.requirements import RequirementsError
from mesh.model import ApplicationConfig, RuntimeEnv

HEAD = "applications:\n- import_path: a:b\n"
ENVIRONMENT = {"STAGE": "canary", "REPLICAS": "3", "EMPTY": "", "YES": "true", "BIG": "x" * 600_000, "BAD": "\x01"}


def application(
    text: str, files: Mapping[str, str] | None = None, environment: Mapping[str, str] = ENVIRONMENT
) -> ApplicationConfig:
    def read(path: str) -> str:
        try:
            return (files or {})[path]
        except KeyError:
            raise RequirementsError(f"cannot read {path}: no such file", hint="check the path") from None

    surroundings = Surroundings("/base", environment, read)
    return config_file.parse(text, path="mesh.yaml", surroundings=surroundings).config.applications[0]


def faults(text: str, files: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        application(text, files)
    return [
        f"{fault.place.line}:{fault.place.column}: {fault.problem.field}: {fault.problem.message}"
        for fault in caught.value.faults
    ]


def runtime_env(text: str, files: Mapping[str, str] | None = None) -> RuntimeEnv:
    return application(f"{HEAD}  runtime_env: {text}\n", files).runtime_env


# !env


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!env ${REPLICAS}", 3),
        ('!env "${REPLICAS}"', "3"),
        ("!env '${REPLICAS}'", "3"),
        ("!env |-\n      ${REPLICAS}", "3"),
        ("!env ${NONE:-2}", 2),
        ("!env ${EMPTY:-2}", 2),
        ("!env ${EMPTY}", None),
        ('!env "${EMPTY}"', ""),
        ("!env ${NONE:-}", None),
        ("!env ${REPLICAS:-2}", 3),
        ("!env ${REPLICAS}.5", 3.5),
        ("!env ${YES}", True),
        ("!env no", "no"),
        ("!env ${STAGE}-${STAGE}", "canary-canary"),
        ("!env $$${STAGE}$$", "$canary$"),
        ("!env $${STAGE}", "${STAGE}"),
        ("${STAGE}", "${STAGE}"),
        ("$STAGE $$", "$STAGE $$"),
        ("[!env '${STAGE}', '${STAGE}']", ["canary", "${STAGE}"]),
    ],
)
def test_env_is_substituted_only_where_asked_for(value: str, expected: object) -> None:
    document = strict_yaml.parse(f"a:\n  b: {value}\n", ENVIRONMENT)
    assert document.faults == []
    assert document.value == {"a": {"b": expected}}


def test_fields_of_a_config_take_it() -> None:
    text = HEAD + (
        '  route_prefix: !env "/${STAGE}"\n  deployments:\n  - name: D\n    num_replicas: !env ${REPLICAS:-2}\n'
    )
    found = application(text)
    assert found.route_prefix == "/canary"
    assert found.deployments[0].num_replicas == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!env ${NONE}", "3:9: applications[0].name: needs the environment variable 'NONE', which is not set"),
        ("!env $STAGE", "3:9: applications[0].name: has a '$' that begins no name: '$STAGE'"),
        ("!env ${STAGE", "3:9: applications[0].name: has a '$' that begins no name: '${STAGE'"),
        ("!env ${A-B}", "3:9: applications[0].name: has a '$' that begins no name: '${A-B}'"),
        ("!env ${NONE:-${STAGE}}", "has a '$' that begins no name"),
        ("!env ${BAD}", "3:9: applications[0].name: gets a character from the environment that may not stand here"),
        ("!env {a: b}", "3:9: applications[0].name: has the tag '!env', which does not fit here"),
        ("!env [a]", "3:9: applications[0].name: has the tag '!env', which does not fit here"),
        ("!ENV ${STAGE}", "3:9: applications[0].name: has the tag '!ENV', which does not fit here"),
        ("!!python/name:os.system x", "has the tag '!!python/name:os.system', which does not fit here"),
        ("!env ${REPLICAS}", "3:9: applications[0].name: must be text, not 3"),
    ],
)
def test_what_cannot_be_substituted_is_told_with_its_place(value: str, expected: str) -> None:
    (fault,) = faults(f"{HEAD}  name: {value}\n")
    assert expected in fault


def test_a_key_is_never_substituted() -> None:
    assert faults(f"{HEAD}  args: {{!env '${{STAGE}}': 1}}\n") == [
        "3:10: applications[0].args: a key must be text, not ${STAGE}"
    ]


def test_what_comes_of_the_environment_is_bounded() -> None:
    found = faults(HEAD + '  args: {a: &a !env "${BIG}", b: [*a, *a]}\n')
    assert "grows too large through the environment" in found[0]


def test_without_an_environment_there_is_no_such_tag() -> None:
    assert strict_yaml.parse("a: !env x").faults


# Strict YAML


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: &b {x: 1}\n", "1:1: base: unknown key 'base'"),
        (f"{HEAD}  args:\n    <<: {{a: 1}}\n", "4:5: applications[0].args: has a merge key (<<)"),
        (f"{HEAD}  name: x\n  name: y\n", "4:3: applications[0].name: stands twice (also in line 3)"),
        (f"{HEAD}  nmae: x\n", "3:3: applications[0].nmae: unknown key 'nmae'"),
        (f"{HEAD}  args: &a {{x: *a}}\n", "grows too large through its aliases"),
        (f"{HEAD}  args: *nobody\n", "is not YAML: found undefined alias"),
    ],
)
def test_what_strict_yaml_refuses(text: str, expected: str) -> None:
    assert any(expected in fault for fault in faults(text)), faults(text)


def test_bombs_of_aliases_end_soon() -> None:
    doubling = "\n".join(f"  a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))
    assert "too large" in faults(f"{HEAD}  args:\n  a0: &a0 [1]\n{doubling}\n")[0]
    long_keys = 'a: &a {? "' + "k" * 400_000 + '" : 1}\nb: [' + "*a, " * 50_000 + "]"
    (fault,) = strict_yaml.parse(long_keys).faults
    assert "too large" in fault.problem.message


def test_a_quoted_merge_key_is_a_key() -> None:
    assert application(f"{HEAD}  args: {{'<<': 1}}\n").args_json == '{"<<": 1}'


# Secrets


def test_secrets_are_references() -> None:
    env = runtime_env("{env_vars: {A: x, B: {from_env: APP_B}, C: {from_file: /run/secrets/c}}}")
    assert env.env_vars == {"A": "x"}
    assert env.env_vars_from_env == {"B": "APP_B"}
    assert env.env_vars_from_file == {"C": "/run/secrets/c"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{}", "A: needs one reference"),
        ("{from_env: X, from_file: /x}", "A: needs one reference"),
        ("{from_evn: X}", "A.from_evn: unknown key 'from_evn'"),
        ("{from_env: 1}", "A.from_env: must be text, not 1"),
        ("{from_env: a-b}", "A.from_env: 'a-b' is not the name of an environment variable"),
        ("{from_file: secret}", "A.from_file: must be an absolute path, not 'secret'"),
        ("[x]", "A: must be text, not a list"),
        ("1", "A: must be text"),
    ],
)
def test_wrong_references(value: str, expected: str) -> None:
    (fault,) = faults(f"{HEAD}  runtime_env: {{env_vars: {{A: {value}}}}}\n")
    assert f"applications[0].runtime_env.env_vars.{expected}" in fault


def test_names_of_variables_are_checked() -> None:
    (fault,) = faults(f"{HEAD}  runtime_env: {{env_vars: {{'A B': x}}}}\n")
    assert "'A B' is not the name of an environment variable" in fault


# Requirements


def pip_faults(text: str, files: Mapping[str, str]) -> list[str]:
    """What is said of pip alone, with the file's place cut off."""
    found = faults(f"{HEAD}  runtime_env: {{pip: {text}}}\n", files)
    return [fault.partition("applications[0].runtime_env.")[2] for fault in found]


def test_a_requirements_file_is_read_by_meshctl() -> None:
    files = {
        "/base/requirements.txt": (
            "# what we need\n\nnumpy>=2  # arrays\n-r more/common.txt\n"
            'torch==2.5; \\\n  python_version > "3.10"\nx @ https://example.com/x.whl#sha256=00\n'
        ),
        "/base/more/common.txt": "--requirement=../last.txt\nrequests[socks]\n",
        "/base/last.txt": "pyyaml",
    }
    assert requirements.inlined("/base/requirements.txt", files.__getitem__) == (
        "numpy>=2",
        "pyyaml",
        "requests[socks]",
        'torch==2.5;    python_version > "3.10"',
        "x @ https://example.com/x.whl#sha256=00",
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--index-url https://user:hunter2@example.com/", "--index-url chooses where packages come from"),
        ("--extra-index-url=https://example.com", "--extra-index-url chooses where packages come from"),
        ("-i https://example.com", "-i chooses where"),
        ("-e .", "-e installs from a directory"),
        ("-c constraints.txt", "-c constrains"),
        ("--pre", "--pre says how to install"),
        ("numpy==2 --hash=sha256:00", "--hash pins one line"),
        ("./lib", "names a file or directory"),
        ("/srv/lib", "names a file or directory"),
        ("lib-1.0-py3-none-any.whl", "names a file or directory"),
        ("file:///srv/lib", "names a file or directory"),
        ("https://user:hunter2@example.com/x.whl", "is a URL without the name"),
        ("git+https://example.com/x", "is a URL without the name"),
        ("@@", "is no requirement"),
        ("-r requirements.txt", "more than 20 files are named"),
        ("-r none.txt", "cannot read /base/none.txt: no such file"),
    ],
)
def test_what_a_requirements_file_may_not_say(line: str, expected: str) -> None:
    (fault,) = pip_faults("requirements.txt", {"/base/requirements.txt": f"numpy\n{line}\n"})
    assert fault.startswith("pip: /base/requirements.txt:2: ")
    assert expected in fault
    assert "hunter2" not in fault


def test_items_of_the_list_are_held_to_the_same() -> None:
    (fault,) = pip_faults("[numpy, -e ., torch]", {})
    assert fault.startswith("pip[1]: -e installs from a directory")


@pytest.mark.parametrize("value", ["requirements.in", "https://example.com/requirements.txt", "{packages: [a]}", "3"])
def test_pip_is_a_list_or_a_file(value: str) -> None:
    (fault,) = pip_faults(value, {})
    assert fault.startswith("pip: must be a list")


def test_too_many_requirements() -> None:
    (fault,) = pip_faults("requirements.txt", {"/base/requirements.txt": "a\n" * 1001})
    assert "more than 1000 requirements" in fault


def test_requirements_files_are_read_from_disk(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(HEAD + "  runtime_env: {pip: requirements.txt}\n")
    with pytest.raises(InvalidFile, match=r"cannot read .*requirements\.txt: No such file"):
        config_file.read(tmp_path / "mesh.yaml")
    for content in (b"\xff", b"#" * (config_file.REQUIREMENTS_BYTES_MAX + 1)):
        (tmp_path / "requirements.txt").write_bytes(content)
        with pytest.raises(InvalidFile, match=r"is not UTF-8|is larger than"):
            config_file.read(tmp_path / "mesh.yaml")
    (tmp_path / "requirements.txt").write_text("# none\n")
    assert config_file.read(tmp_path / "mesh.yaml").config.applications[0].runtime_env.pip == ()
