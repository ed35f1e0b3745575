"""docs/asgi.md: its code is served, its commands say what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.test_docs import assert_shown, at, consoles, shell, shown_file
from tests.support.mesh_process import FREE_PORTS, ROOT, MeshProcess

pytestmark = pytest.mark.long

DOCUMENT = (ROOT / "docs" / "asgi.md").read_text()


def test_the_code_of_the_page_is_served(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0])
    (tmp_path / "mesh.yaml").write_text(shown_file(DOCUMENT, "mesh.yaml"))
    (commands,) = consoles(DOCUMENT)
    with MeshProcess("run", "mesh.yaml", *FREE_PORTS, cwd=tmp_path) as mesh:
        assert_shown(commands, mesh, tmp_path)
        client = shown_file(DOCUMENT, "client.py").replace("ws://localhost:8000", mesh.http.replace("http", "ws"))
        (tmp_path / "client.py").write_text(client)
        assert shell("python client.py", mesh, tmp_path) == ["you said hi"]
        assert "/web/openapi.json" in "".join(shell(at(mesh, "curl -s localhost:8000/web/docs"), mesh, tmp_path))
