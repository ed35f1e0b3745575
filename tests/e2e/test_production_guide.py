"""The production guide is run from its first command to its last, and says what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.console import BLOCK, run, shop, started, steady, steps
from tests.support.mesh_process import ROOT

GUIDE = (ROOT / "docs" / "production.md").read_text()


@pytest.mark.long
def test_every_command_says_what_the_guide_shows(tmp_path: Path) -> None:
    directory = shop(tmp_path)
    with started(tmp_path) as mesh:
        for block in BLOCK.findall(GUIDE):
            for step in steps(block):
                said = [line.replace(str(tmp_path), "/srv") for line in run(step.command, mesh, directory)]
                assert steady(said) == steady(step.shown), step.command
