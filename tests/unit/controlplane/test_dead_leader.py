from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.controlplane import dead_leader
from mesh.controlplane.dead_leader import is_gone, own_mark

TELL = "from mesh.controlplane.dead_leader import own_mark; print(own_mark(), flush=True); input()"


def test_a_process_that_runs_is_not_gone() -> None:
    assert len(own_mark().split()) == 4
    assert not is_gone(own_mark())


def test_a_process_is_gone_once_it_was_killed_be_it_waited_for_or_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdin is not None
    with child.stdout, child.stdin:
        mark = child.stdout.readline().strip()
        assert not is_gone(mark)
        child.kill()
        while child.stdout.readline():
            pass
        while not is_gone(mark):  # a zombie
            pass
        child.wait()
    assert is_gone(mark)


def test_another_process_of_the_same_number_is_not_the_one() -> None:
    boot, namespace, pid, started = own_mark().split()
    assert is_gone(f"{boot} {namespace} {pid} {int(started) - 1}")


def test_of_processes_of_other_machines_and_namespaces_nothing_is_known() -> None:
    boot, namespace, pid, started = own_mark().split()
    before = int(started) - 1
    assert not is_gone(f"other {namespace} {pid} {before}")
    assert not is_gone(f"{boot} pid:[1] {pid} {before}")
    for nonsense in ("", "x", f"{boot} {namespace} -1 {before}", f"{boot} {namespace} x {before}", "a b c d e"):
        assert not is_gone(nonsense)
    assert is_gone(f"{boot} {namespace} {10**30} {before}"), "no such number"


@pytest.mark.parametrize("may_signal", [True, False])
def test_a_process_that_proc_hides_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_signal: bool
) -> None:
    """As /proc is for others than root where it is mounted with hidepid."""
    boot, namespace, _, started = own_mark().split()
    for seen in ("sys", "self", str(os.getpid())):
        (tmp_path / seen).symlink_to(f"/proc/{seen}")
    monkeypatch.setattr(dead_leader, "_PROC", tmp_path)

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    if not may_signal:
        monkeypatch.setattr(os, "kill", refuse)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert len(own_mark().split()) == 4
        assert not is_gone(f"{boot} {namespace} {child.pid} {started}")
