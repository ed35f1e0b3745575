"""Flags of commands that change what runs.

Owns flag names and help texts, as `flags` does. Decides nothing. Imported by the commands; typer is all it loads.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer


@dataclasses.dataclass(frozen=True, slots=True)
class SupersedeFlags:
    """What becomes of a rollout that is under way."""

    supersede: Annotated[
        bool, typer.Option("--supersede", help="Replace a rollout that is under way, instead of waiting for it.")
    ] = False


@dataclasses.dataclass(frozen=True, slots=True)
class DeployFlags:
    """How a config file is deployed."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and show what would change.")] = False
    rollback: Annotated[
        bool, typer.Option("--rollback/--no-rollback", help="Roll a revision that fails back, or leave it as it is.")
    ] = True
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Replace a rollout that is under way, instead of waiting for it.")
    ] = False
