"""Runs load generators one after another, each in a fork of this process, which has loaded their code already.

To start Python and load all of it takes a quarter of a second each time, hundreds of times in a run, and processors
that what is measured lacks. Reads a line of JSON for each, writes one. Started by `generators`, and ends with it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks.forked import die_with

MODULES = ("load", "open_loop", "grpc_load", "stream_load")


def main() -> None:
    """Serve until nobody asks any more."""
    for name in MODULES:
        import_module(f"benchmarks.{name}")
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked["module"], asked["words"])), flush=True)


def run(module: str, words: Sequence[str]) -> dict[str, Any]:
    """Run a generator in a fork; return its exit code and what it wrote."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        parent = os.getpid()
        if not (pid := os.fork()):
            _be(module, words, said.fileno(), complained.fileno(), parent)
        _, status = os.waitpid(pid, 0)
        told: dict[str, Any] = {"code": os.waitstatus_to_exitcode(status)}
        for name, file in (("said", said), ("complained", complained)):
            file.seek(0)
            told[name] = file.read().decode(errors="replace")
        return told


def _be(module: str, words: Sequence[str], said: int, complained: int, parent: int) -> None:
    """Be the generator; never returns."""
    code = 1
    try:
        die_with(parent)
        os.dup2(said, 1)
        os.dup2(complained, 2)
        sys.argv = [module, *words]
        import_module(f"benchmarks.{module}").main()
        code = 0
    except SystemExit as error:
        print(error, file=sys.stderr)
        code = 0 if error.code in (0, None) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
