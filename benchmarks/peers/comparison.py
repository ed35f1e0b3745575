"""Measures one pair: the same client asks ours and theirs in turn, again and again, while nothing else is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import greeter
from benchmarks.generators import GeneratorFailed, generate
from benchmarks.peers import figures
from benchmarks.peers.environments import Environments, size, versions
from benchmarks.peers.running import PeerFailed, Running, Target
from benchmarks.peers.systems import Pair, System
from benchmarks.report import instant

CONNECTIONS = {1: 0.5, 64: 1.0, 256: 0.5}
"""How many, and which part of the time of a run they get."""
WRK_CONNECTIONS = 64
WRK_PART = 0.5
GRPC_STREAMS = 16
"""At most so many calls at a time share a connection of the gRPC client."""
GRPC_PROCESSES = 2
"""Of that client, where it has several connections: one in Python would be busy before the servers are."""
WARM_UP_S = 1.0
SETTLE_S = 1.0
IDLE_S = 3.0


@dataclass(frozen=True)
class Plan:
    """How often and how long, where homes of running systems are made, and when all must be over (monotonic)."""

    runs: int
    seconds: float
    starts: int
    place: Path
    end_at: float

    def check(self) -> None:
        """Raise if the time is up."""
        if time.monotonic() >= self.end_at:
            raise PeerFailed("the time for the whole run was up before it was measured")


class Measured:
    """A running system with the client that asks it."""

    def __init__(self, running: Running, place: Path) -> None:
        self.running = running
        self._place = place

    def once(self, connections: int, seconds: float) -> dict[str, Any]:
        """Load it in a closed loop and add what a request cost its processes, and the client, in µs of CPU."""
        target = self.running.target
        watched = ",".join(str(process.pid) for process in self.running.processes())
        if target.grpc:
            run = _grpc_load(target, self._place, connections, seconds, watched)
        else:
            run = _load(target, connections, seconds, watched)
            if run["broken"] or set(run["by_status"]) != {"200"}:
                what = f"answered {run['by_status']} and broke {run['broken']} connections"
                raise PeerFailed(f"{self.running.name} {what}")
        return {**run, **figures.costs(run["cpu_s"], run["completed"])}

    def once_wrk(self, wrk: str, seconds: float) -> dict[str, Any]:
        """Load it with wrk, for the rate alone."""
        target = self.running.target
        script = self._place / "post.lua"
        body = f'wrk.method = "POST"; wrk.body = \'{target.body}\'; wrk.headers["Content-Type"] = "application/json"\n'
        script.write_text(body if target.body else "")
        command = [wrk, "-t1", f"-c{WRK_CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(script), target.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if done.returncode or "Requests/sec:" not in done.stdout or "Non-2xx" in done.stdout:
            raise PeerFailed(f"{self.running.name}: wrk said {done.stdout[-500:]} {done.stderr[-500:]}")
        return {"per_second": float(done.stdout.split("Requests/sec:")[1].split()[0])}

    def idle_cpu_percent(self, seconds: float = IDLE_S) -> float:
        """Return the CPU it takes while nothing is asked of it."""
        before = self.running.cpu_s()
        time.sleep(seconds)
        return round(100 * (self.running.cpu_s() - before) / seconds, 2)


def _load(target: Target, connections: int, seconds: float, watched: str) -> dict[str, Any]:
    """Ask over HTTP, and read the CPU of what answers while it counts."""
    try:
        return generate("load", target.url, connections=connections, seconds=seconds, body=target.body, watch=watched)
    except GeneratorFailed as failed:
        raise PeerFailed(str(failed)) from failed


def _grpc_load(target: Target, directory: Path, connections: int, seconds: float, watched: str) -> dict[str, Any]:
    """Ask with `connections` calls at a time, of which at most `GRPC_STREAMS` share a connection."""
    streams = min(connections, GRPC_STREAMS)
    channels = connections // streams
    processes = min(channels, GRPC_PROCESSES)
    options = {"connections": channels, "streams": streams, "processes": processes, "watch": watched}
    try:
        return generate("grpc_load", target.address, str(directory), seconds=seconds, **options)
    except GeneratorFailed as failed:
        raise PeerFailed(str(failed)) from failed


def start(system: System, environment: Path, plan: Plan) -> Running:
    """Launch a system in a new home."""
    plan.check()
    # Sockets are made in it, and their paths must be short.
    home = Path(tempfile.mkdtemp(dir=plan.place, prefix=""))
    return Running(system.name, system.launch(environment, home), home)


def start_seconds(system: System, environment: Path, plan: Plan) -> float:
    """Start it, alone on the machine, up to its first answer, and end it."""
    with start(system, environment, plan) as running:
        return running.first_answer_s()


def compare(pair: Pair, environments: Environments, plan: Plan) -> dict[str, Any]:
    """Measure a pair.

    Raises:
        PeerFailed: One of them cannot be installed, started or measured.
    """
    installed = {
        side: environments.get(system.environment, system.requirements)
        for side, system in (("ours", pair.ours), ("theirs", pair.peer))
    }
    began: dict[str, Any] = {"at": instant(time.time()), "load_average": load()}
    started: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(plan.starts):
        started["ours"].append(start_seconds(pair.ours, installed["ours"], plan))
        started["theirs"].append(start_seconds(pair.peer, installed["theirs"], plan))
    result: dict[str, Any] = {
        **began,
        "what": pair.peer.what,
        "ours": pair.ours.what,
        "versions": versions(installed["theirs"], pair.peer.requirements),
        "runs": plan.runs,
        "start_s": {
            **{side: round(sorted(taken)[len(taken) // 2], 3) for side, taken in started.items()},
            "ratio": figures.ratio(started["theirs"], started["ours"]),
            "of_each_start": {side: [round(each, 3) for each in taken] for side, taken in started.items()},
        },
        "installed": {side: size(place) for side, place in installed.items()},
    }
    result.update(_side_by_side(pair, installed, plan))
    result["load_average_after"] = load()
    if pair.goal is not None:
        result["goal"] = pair.goal
    return result


def load() -> list[float]:
    """Return the load averages of 1, 5 and 15 minutes."""
    return [round(each, 2) for each in os.getloadavg()]


def _side_by_side(pair: Pair, installed: dict[str, Path], plan: Plan) -> dict[str, Any]:
    generated = plan.place / "client"
    if not generated.exists():
        generated.mkdir()
        greeter.generate(generated)
    with ExitStack() as stack:
        both = {}
        for side, system in (("theirs", pair.peer), ("ours", pair.ours)):
            running = stack.enter_context(start(system, installed[side], plan))
            running.first_answer_s()
            both[side] = Measured(running, generated)
        ours, theirs = both["ours"], both["theirs"]
        time.sleep(SETTLE_S)
        result: dict[str, Any] = {
            "asked": {side: str(measured.running.target) for side, measured in both.items()},
            "processes": {side: len(measured.running.processes()) for side, measured in both.items()},
            "memory": {side: measured.running.memory_mb() for side, measured in both.items()},
            "idle_cpu_percent": {side: measured.idle_cpu_percent() for side, measured in both.items()},
        }
        for measured in both.values():
            measured.once(WRK_CONNECTIONS, WARM_UP_S)
        for connections, part in CONNECTIONS.items():
            result[f"connections_{connections}"] = _in_turn(
                plan, part, partial(ours.once, connections), partial(theirs.once, connections)
            )
        if (wrk := shutil.which("wrk")) and not theirs.running.target.grpc:
            rates = _in_turn(plan, WRK_PART, partial(ours.once_wrk, wrk), partial(theirs.once_wrk, wrk))
            result[f"wrk_{WRK_CONNECTIONS}"] = rates
        result["memory_after_load"] = {side: measured.running.memory_mb() for side, measured in both.items()}
        return result


def _in_turn(
    plan: Plan, part: float, ours: Callable[[float], dict[str, Any]], theirs: Callable[[float], dict[str, Any]]
) -> dict[str, Any]:
    """Ask ours and theirs, in the other order each second time; each round is a pair."""
    runs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    seconds = plan.seconds * part
    for number in range(plan.runs):
        plan.check()
        if number % 2:
            their, our = theirs(seconds), ours(seconds)
        else:
            our, their = ours(seconds), theirs(seconds)
        runs.append((our, their))
    return {"seconds": seconds, **figures.compared([our for our, _ in runs], [their for _, their in runs])}
