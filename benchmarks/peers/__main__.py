"""Ours beside each peer, one peer at a time; writes benchmarks/results/peers.json.

Run: python -m benchmarks.peers [--only ray,bentoml] [--runs 5] [--seconds 2] [--keep DIR]
With `--only`, the figures of the other peers stay as they are in the file. A peer that cannot be installed, started or
measured is written down with the reason, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import figures
from benchmarks.peers.comparison import Plan, compare
from benchmarks.peers.environments import Environments
from benchmarks.peers.running import PeerFailed
from benchmarks.peers.systems import PAIRS
from benchmarks.report import BEGAN, RESULTS, instant, write

WHOLE_S = 19.5 * 60
"""After so long nothing more is started; what runs then ends within its own bounds."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"peers, separated by commas, of {', '.join(PAIRS)}")
    parser.add_argument("--runs", type=int, default=5, help="of each of a pair, in turn")
    parser.add_argument("--seconds", type=float, default=2.0, help="that each run lasts")
    parser.add_argument("--starts", type=int, default=5, help="of each of a pair, timed")
    parser.add_argument("--keep", type=Path, help="keep the environments here, and use those that are here")
    parser.add_argument("--name", default="peers", help="of the file in benchmarks/results")
    return parser.parse_args()


def measured(names: list[str], environments: Environments, plan: Plan) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the figures of each peer, and of those that have none the reason."""
    peers: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in names:
        began = time.monotonic()
        try:
            peers[name] = compare(PAIRS[name], environments, plan)
            at_64 = peers[name]["connections_64"]
            outcome = f"{at_64['ours']['per_second']} to {at_64['theirs']['per_second']} a second: {at_64['ratio']}"
        except PeerFailed as error:
            failed[name] = outcome = str(error)
        except Exception as error:  # one peer does not cost the others their figures
            failed[name] = outcome = f"{type(error).__name__}: {error}"
        print(f"{name} ({time.monotonic() - began:.0f} s): {outcome}", file=sys.stderr, flush=True)
    return peers, failed


def main() -> int:
    """Measure, print and write down; 1 if a peer is without figures."""
    asked = arguments()
    try:
        names = figures.selected(asked.only, PAIRS)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    file = RESULTS / f"{asked.name}.json"
    before = json.loads(file.read_text()) if asked.only and file.exists() else {}
    # Ray's and HAProxy's sockets are made below it, and the path of a socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        end_at = time.monotonic() + WHOLE_S
        environments = Environments(asked.keep.absolute() if asked.keep else directory / "environments", end_at)
        plan = Plan(asked.runs, asked.seconds, asked.starts, directory, end_at)
        peers, failed = measured(names, environments, plan)
    for name in failed:
        before.get("peers", {}).pop(name, None)
    results = {
        "what": "a no-op, one replica, ours and theirs in turn; medians, ratios pair by pair",
        "began": instant(BEGAN),
        "peers": figures.merged(before.get("peers", {}), peers, PAIRS),
        "failed": figures.merged(
            {name: why for name, why in before.get("failed", {}).items() if name not in peers}, failed, PAIRS
        ),
    }
    write(asked.name, results)
    return int(bool(failed))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
