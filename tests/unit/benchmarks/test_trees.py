"""A server that does not start is told of, and nothing of it is left; one workload that fails fails alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from benchmarks import run
from benchmarks.trees import Served, ServerFailed

READY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print('{"child": %d}' % child.pid, flush=True)
time.sleep(600)
"""


def test_the_whole_tree_ends_with_its_server() -> None:
    with Served([sys.executable, "-c", READY]) as served:
        child = psutil.Process(served.said["child"])
        assert child.is_running()
    assert served.process.returncode is not None
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("code", ["", "print('no JSON', flush=True)", "raise SystemExit(3)"])
def test_a_server_that_does_not_say_what_it_should_has_failed(code: str) -> None:
    with pytest.raises(ServerFailed):
        Served([sys.executable, "-c", code])


def test_what_fails_of_one_workload_or_server_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def broken() -> Iterator[None]:
        raise ServerFailed("it did not start")
        yield

    @contextmanager
    def whole() -> Iterator[str]:
        yield "served"

    def bad(_: Any) -> dict[str, Any]:
        raise KeyError("gone")

    def good(served: str) -> dict[str, Any]:
        return {"good": served}

    groups = (run.Group(broken, {"first": good, "second": good}), run.Group(whole, {"bad": bad, "good": good}))
    monkeypatch.setattr(run, "GROUPS", groups)
    results, failed = run.measured(frozenset({"first", "second", "bad", "good"}))
    assert results == {"good": "served"}
    assert failed == {
        "first": "ServerFailed: it did not start",
        "second": "ServerFailed: it did not start",
        "bad": "KeyError: 'gone'",
    }
