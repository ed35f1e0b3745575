"""One of four replicas ends its process in each request that it gets: clients do not see it."""

from __future__ import annotations

from pathlib import Path

from tests.support.mesh_process import MeshProcess, eventually
from tests.support.steady import CLIENTS, Steady

CODE = """\
import os
from pathlib import Path

import mesh

SIGNS = Path(os.environ["SIGNS"])


@mesh.deployment(num_replicas=4)
class Four:
    def __init__(self) -> None:
        # The first of all is the one, and, as no other starts again, whatever starts again in its place.
        try:
            (SIGNS / "one").mkdir()
            self.is_one = True
        except FileExistsError:
            self.is_one = (SIGNS / "begun").exists()

    async def __call__(self) -> str:
        if self.is_one and (SIGNS / "begun").exists():
            with open(SIGNS / "exits", "a") as exits:
                exits.write("x")
            os._exit(3)
        return str(os.getpid())


app = Four.bind()
"""
CONFIG = """\
applications:
- name: four
  route_prefix: /four
  import_path: four:app
  runtime_env: {{working_dir: "local://{code}", env_vars: {{SIGNS: "{signs}"}}}}
"""
EXITS = 3
REQUESTS = 200
"""Before the first exit, and after the last."""


def test_a_replica_that_ends_in_each_request_takes_none_down(mesh: MeshProcess, tmp_path: Path) -> None:
    (tmp_path / "four.py").write_text(CODE)
    (tmp_path / "signs").mkdir()
    (tmp_path / "mesh.yaml").write_text(CONFIG.format(code=tmp_path, signs=tmp_path / "signs"))
    done = mesh.meshctl("deploy", "mesh.yaml", cwd=tmp_path)
    assert done.code == 0, done.stderr  # and the version is proven: exits do not fail it any more
    exits = tmp_path / "signs" / "exits"
    with Steady(f"{mesh.http}/four") as steady:
        steady.more(REQUESTS)
        assert len(set(steady.answers)) == 4, "all four answer"
        begun = len(steady.answers)
        (tmp_path / "signs" / "begun").touch()
        eventually(lambda: exits.exists() and len(exits.read_text()) >= EXITS, what=f"{EXITS} exits")
        steady.more(REQUESTS)
    assert {status for status, _ in steady.answers} == {200}
    assert len(set(steady.answers[begun + CLIENTS :])) == 3, "the others answer"
