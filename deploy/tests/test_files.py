"""Dockerfiles, compose.yaml and systemd units: valid by their own rules."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.tests.rendered import BIN, DEPLOY

DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_dockerfiles_pass_hadolint(path: Path) -> None:
    done = subprocess.run([BIN / "hadolint", "--failure-threshold", "info", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_end_as_a_user_without_rights(path: Path) -> None:
    users = re.findall(r"^USER (\S+)", path.read_text(), re.M)
    assert re.fullmatch(r"[1-9]\d{3,}(:[1-9]\d{3,})?", users[-1])


def test_the_image_is_small_by_its_making() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("\nFROM ") == 2, "what builds is not what runs"
    assert "--require-hashes" in text
    assert "slim" in text
    ignored = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for source in copied.split():
            assert f"!{source}" in ignored, f"{source} does not reach the builder"


def test_compose_is_valid_by_its_schema() -> None:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_compose_has_what_is_asked_for() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    counted = {
        role: sum(name.startswith(role) for name in services) for role in ("etcd", "controlplane", "gateway", "worker")
    }
    assert counted == {"etcd": 3, "controlplane": 2, "gateway": 2, "worker": 2}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        for port in service.get("ports", ()):
            assert name.startswith("gateway") or port.startswith("127.0.0.1:"), f"{name} is open to the world"
        if not name.startswith("etcd"):
            assert "--token-file=/run/secrets/token" in service["command"]
            assert service["read_only"] is True
    etcds = [service["command"] for name, service in services.items() if name.startswith("etcd")]
    assert len({flag for command in etcds for flag in command if flag.startswith("--initial-cluster=")}) == 1


def test_one_replica_without_memory_is_not_the_end_of_a_worker() -> None:
    assert "\nOOMPolicy=continue\n" in (DEPLOY / "systemd" / "mesh-worker.service").read_text()


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_valid(path: Path, tmp_path: Path) -> None:
    # It looks for the command; an installed meshctl stands in for that of /opt/mesh.
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/mesh/bin/meshctl", str(BIN / "meshctl")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    told = [line for line in done.stderr.splitlines() if path.name in line or str(unit) in line]
    assert not told and done.returncode == 0, done.stderr
