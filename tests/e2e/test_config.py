"""Config files from end to end: build, deploy, config and diff agree with each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.mesh_process import MeshProcess, meshctl

Write = Callable[[str, str], Path]

CODE = """\
import os

import mesh

print("imported")


@mesh.deployment(num_replicas=2, max_queued_requests=7, user_config={"threshold": 0.5, "on": "yes"})
class Model:
    def __init__(self, size="small"):
        self.size = size

    def reconfigure(self, user_config):
        self.threshold = user_config["threshold"]

    def __call__(self):
        return f"{self.size} {self.threshold} {os.environ.get('DB')}"


app = Model.bind()


def make(args):
    return Model.bind(args["size"])
"""


@pytest.mark.long
def test_build_deploy_config_deploy_changes_nothing(mesh: MeshProcess, write: Write, tmp_path: Path) -> None:
    write("shop.py", CODE)
    built = meshctl("build", "shop:app", "shop:make", "-o", "mesh.yaml", cwd=tmp_path)
    assert (built.code, built.stdout) == (1, ""), "make needs args"
    assert "error: shop:make: KeyError: 'size' (shop.py:24)" in built.stderr
    assert "\nTraceback" not in built.stderr
    assert not (tmp_path / "mesh.yaml").exists()

    built = meshctl("build", "shop:make", "size=large", "--name", "shop", "-o", "mesh.yaml", cwd=tmp_path)
    assert built.code == 0, built.stderr
    assert "imported\n" in built.stderr
    again = meshctl("build", "shop:make", "-o", "mesh.yaml", cwd=tmp_path)
    assert (again.code, "is there already" in again.stderr) == (4, True)
    (tmp_path / "db").write_text("hunter2\n")
    text = (tmp_path / "mesh.yaml").read_text()
    text = text.replace("# env_vars: {}  ", f"env_vars: {{DB: {{from_file: {tmp_path}/db}}}}  ")
    (tmp_path / "mesh.yaml").write_text(text)

    assert meshctl("validate", "mesh.yaml", cwd=tmp_path).code == 0
    different = mesh.meshctl("diff", "mesh.yaml", "-o", "json", cwd=tmp_path)
    assert different.code == 1, different.stderr
    assert [change["application"] for change in different.json()["changes"]] == ["shop"]
    done = mesh.meshctl("deploy", "mesh.yaml", cwd=tmp_path)
    assert done.code == 0, done.stderr
    with httpx.Client(trust_env=False, timeout=20) as client:
        assert client.get(mesh.http).text == "large 0.5 hunter2"
    same = mesh.meshctl("diff", "mesh.yaml", cwd=tmp_path)
    assert (same.code, same.stdout) == (0, ""), same

    goal = mesh.meshctl("config")
    (application,) = yaml.safe_load(goal.stdout)["applications"]
    assert application["runtime_env"]["env_vars"] == {"DB": {"from_file": f"{tmp_path}/db"}}
    assert application["args"] == {"size": "large"}
    (deployment,) = application["deployments"]
    assert deployment == {
        "name": "Model",
        "num_replicas": 2,
        "max_queued_requests": 7,
        "user_config": {"on": "yes", "threshold": 0.5},
    }
    (tmp_path / "goal.yaml").write_text(goal.stdout)
    done = mesh.meshctl("deploy", "goal.yaml", "-o", "json", cwd=tmp_path)
    assert done.json()["applications"][0]["change"] == "UNCHANGED"

    (tmp_path / "mesh.yaml").write_text(text.replace("num_replicas: 2", "num_replicas: 1"))
    different = mesh.meshctl("diff", "mesh.yaml", cwd=tmp_path)
    assert different.code == 1
    assert "-  num_replicas: 2\n+  num_replicas: 1\n" in different.stdout
    told = json.dumps([done.stdout, goal.stdout, mesh.meshctl("status", "-o", "json").stdout, mesh.stderr])
    assert "hunter2" not in told
