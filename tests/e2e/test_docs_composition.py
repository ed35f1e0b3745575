"""What docs/composition.md shows is so."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.test_docs import assert_shown, consoles, shown_file
from tests.support.mesh_process import FREE_PORTS, ROOT, MeshProcess

PAGE = (ROOT / "docs" / "composition.md").read_text()


def test_the_page_on_composition(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(shown_file(PAGE, "shop.py"))
    with MeshProcess("run", "shop:app", "--working-dir", str(tmp_path), *FREE_PORTS) as mesh:
        (calls, limits) = consoles(PAGE)
        assert_shown(calls, mesh, tmp_path)
        assert_shown(limits, mesh, tmp_path)
