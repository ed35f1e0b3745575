"""Where an error of the one instance's hooks is located in the config."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mesh.errors import UserCodeError
from mesh.model import ApplicationConfig, DeploymentConfig, DeploymentSettings, ReplicaSpec, RuntimeEnv
from mesh.worker.instance import construct

CODE = """\
import mesh

@mesh.deployment{options}
class Echo:
    def __init__(self):
        {constructor}
    def reconfigure(self, user_config):
        self.rate = int(user_config["rate"])
    def __call__(self, request):
        return "x"

app = Echo.bind()
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ReplicaSpec:
    options, constructor, overrides = request.param
    module = f"served_{len(sys.modules)}"
    (tmp_path / f"{module}.py").write_text(CODE.format(options=options, constructor=constructor))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    config = ApplicationConfig("app", "/", f"{module}:app", RuntimeEnv(str(tmp_path)), "", overrides)
    return ReplicaSpec("r1", "app", "Echo", config=config, settings=DeploymentSettings(user_config_json="{}"))


BAD = json.dumps({"rate": "fast"})
OVERRIDES = (DeploymentConfig("Other"), DeploymentConfig("Echo", user_config_json=BAD))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (("", "pass", OVERRIDES), "deployments[1].user_config"),
        (("(user_config={'rate': 'fast'})", "pass", ()), "import_path"),
    ],
    indirect=["spec"],
    ids=["config", "code"],
)
async def test_a_reconfigure_that_raises_is_located_at_what_sets_the_user_config(spec: ReplicaSpec, field: str) -> None:
    instance = construct(spec)
    with pytest.raises(UserCodeError, match=r"ValueError: invalid literal .* \(served_\d+.py:8\)") as caught:
        await instance.reconfigure(BAD)
    assert caught.value.field == field
    assert caught.value.hint == "mend user_config, or Echo.reconfigure"
    assert "ValueError" in caught.value.traceback
    await instance.reconfigure('{"rate": 3}')
    with pytest.raises(UserCodeError):
        await instance.reconfigure(BAD)
    instance.target.rate = "half taken"
    await instance.reconfigure('{"rate": 3}')
    assert instance.target.rate == 3, "the old value holds, whatever the hook did before it raised"


@pytest.mark.parametrize("spec", [("", "raise ValueError('no')", OVERRIDES)], indirect=True, ids=["config"])
def test_a_constructor_that_raises_is_located_at_the_code(spec: ReplicaSpec) -> None:
    with pytest.raises(UserCodeError, match=r"ValueError: no \(served_\d+.py:6\)") as caught:
        construct(spec)
    assert caught.value.field == "import_path"
