"""Which changed files count, and that each change is noticed, with watchfiles and without."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path, PurePath

import pytest

from mesh.cli import reload


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("a.py", True),
        ("pkg/a.py", True),
        ("mesh.yaml", True),
        ("model.bin", False),
        ("__pycache__/a.py", False),
        (".git/hooks/a.py", False),
        (".venv/lib/a.py", False),
        ("a.py.swp", False),
    ],
)
def test_which_files_count(path: str, counts: bool) -> None:
    assert reload.is_code(PurePath(path)) is counts


def test_fingerprint_differs_after_each_kind_of_change(tmp_path: Path) -> None:
    prints = [reload.fingerprint([tmp_path])]
    file = tmp_path / "a.py"
    file.write_text("1")
    prints.append(reload.fingerprint([tmp_path]))
    os.utime(file, ns=(1, 1))
    prints.append(reload.fingerprint([tmp_path]))
    (tmp_path / "notes.txt").write_text("not code")
    assert reload.fingerprint([tmp_path]) == prints[-1]
    file.unlink()
    assert reload.fingerprint([tmp_path]) == prints[0]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("installed", [True, False])
async def test_a_change_is_noticed(tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "watchfiles", None)
    file = tmp_path / "a.py"
    file.write_text("1")
    seen = reload.fingerprint([tmp_path])
    changes = reload.changes([tmp_path], seen)
    async with asyncio.timeout(20):
        (tmp_path / "b.py").write_text("2")
        second = await anext(changes)
        file.unlink()
        third = await anext(changes)
    assert len({seen, second, third}) == 3
    await changes.aclose()
