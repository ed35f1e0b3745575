"""Entry point of meshctl: sees to Ctrl-C first, then loads the commands and runs the one that is asked for.

Owns that order only: loading takes a good part of a second, and an interrupt must be as quiet then as at any time. The
garbage collector would take a sixth of it, and find nothing: hardly anything that is loaded goes again.
"""

from __future__ import annotations

import gc
import sys

from mesh.cli.interrupts import end_at_once

_LOADED_OBJECTS = 50_000
"""After so many new ones it looks for garbage."""


def main() -> int:
    """Run meshctl with this process's arguments and return its exit code."""
    end_at_once()
    gc.set_threshold(_LOADED_OBJECTS)
    from mesh.cli import commands

    try:
        return commands.main()
    finally:
        end_at_once()  # also while the interpreter takes itself down


if __name__ == "__main__":
    sys.exit(main())
