"""wrk and h2load, load generators in C, where they are installed: they leave more of the machine to mesh than ours.

Owns their command lines, and what is believed of what they say. Used by `requests`, in turn with our own.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable

from benchmarks.generators import GeneratorFailed, Run, Way
from benchmarks.trees import Served

WRK_CONNECTIONS = (64, 1024)
STREAMS = 64
SECONDS = 1
"""They take no less. wrk counts from the first connection on, of which there is little at this length."""
LIMIT_S = 60.0
_WRK = re.compile(r"^ +(?P<done>\d+) requests in .*^Requests/sec: +(?P<rate>[\d.]+)", re.MULTILINE | re.DOTALL)
_WRK_FAILED = re.compile(r"^ +(?:Socket errors|Non-2xx)", re.MULTILINE)
_H2LOAD = re.compile(
    r"^finished in [^,]+, (?P<rate>[\d.]+) req/s.*^requests: .* (?P<done>\d+) done, .*"
    r"^status codes: (?P<ok>\d+) 2xx",
    re.MULTILINE | re.DOTALL,
)


def ways(mesh: Served) -> dict[str, Way]:
    """No-op JSON with wrk at 64 and 1,024 connections, and with h2load as many streams on one connection."""
    found: dict[str, Way] = {}
    url = mesh.url + "/"
    if (wrk := shutil.which("wrk")) is not None:
        for count in WRK_CONNECTIONS:
            command = [wrk, "-t1", f"-c{count}", f"-d{SECONDS}s", url]
            found[f"noop_{count}_connections_wrk"] = functools.partial(_run, mesh, command, of_wrk)
    if (h2load := shutil.which("h2load")) is not None:
        command = [h2load, "-c1", f"-m{STREAMS}", f"-D{SECONDS}", url]
        found[f"noop_h2_{STREAMS}_streams"] = functools.partial(_run, mesh, command, of_h2load)
    return found


def of_wrk(said: str) -> tuple[float, int]:
    """Return the requests per second that wrk tells of, and all. Raises GeneratorFailed unless all went well."""
    found = _WRK.search(said)
    if found is None or found["done"] == "0" or _WRK_FAILED.search(said):
        raise GeneratorFailed(f"wrk was not answered as it should be:\n{said}")
    return float(found["rate"]), int(found["done"])


def of_h2load(said: str) -> tuple[float, int]:
    """Return the requests per second that h2load tells of, and all. Raises GeneratorFailed unless all had 2xx."""
    found = _H2LOAD.search(said)
    if found is None or found["done"] == "0" or found["ok"] != found["done"]:
        raise GeneratorFailed(f"h2load was not answered as it should be:\n{said}")
    return float(found["rate"]), int(found["done"])


def _run(mesh: Served, command: list[str], read: Callable[[str], tuple[float, int]]) -> Run:
    before = mesh.cpu_s()
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S)
    spent = mesh.cpu_s() - before
    rate, count = read(output.stdout)
    return {"per_second": rate, "server_cpu_us": spent / count * 1e6}
