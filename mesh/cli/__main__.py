"""Entry point of meshctl: sees to Ctrl-C first, then loads the commands and runs the one that is asked for.

Owns that order only: loading takes a good part of a second, and an interrupt must be as quiet then as at any time.
"""

from __future__ import annotations

import sys

from mesh.cli.interrupts import end_at_once


def main() -> int:
    """Run meshctl with this process's arguments and return its exit code."""
    end_at_once()
    from mesh.cli import commands

    try:
        return commands.main()
    finally:
        end_at_once()  # also while the interpreter takes itself down


if __name__ == "__main__":
    sys.exit(main())
