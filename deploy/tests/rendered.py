"""The manifests as they would be applied: kustomize overlays and the Helm chart, rendered without a cluster."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
Manifest = dict[str, Any]
NAMESPACED = {"Namespace"}
"""Kinds that have no namespace."""


def overlay(name: str) -> list[Manifest]:
    """Return an overlay as kustomize renders it: the part of kustomize that the overlays use, and no more."""
    return _rendered(DEPLOY / "kubernetes" / "overlays" / name)


def by_kubectl(name: str) -> list[Manifest] | None:
    """Return what kubectl makes of an overlay; None where there is no kubectl with a kustomize of this decade."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return None
    about = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, timeout=60).stdout
    if "Kustomize Version: v5" not in about:
        return None
    directory = DEPLOY / "kubernetes" / "overlays" / name
    done = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def chart(*flags: str, name: str = "release") -> list[Manifest]:
    """Return the chart as Helm renders it."""
    command = [str(BIN / "helm"), "template", name, str(DEPLOY / "helm" / "mesh"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def key(manifest: Manifest) -> tuple[str, str]:
    """Return kind and name."""
    return manifest["kind"], manifest["metadata"]["name"]


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the pod template of each workload by its name."""
    return {
        m["metadata"]["name"]: m["spec"]["template"] for m in manifests if m["kind"] in ("Deployment", "StatefulSet")
    }


def _rendered(directory: Path) -> list[Manifest]:
    told = yaml.safe_load((directory / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "namespace", "resources", "images", "replicas", "patches"}
    assert set(told) <= known, f"this renderer does not know {set(told) - known}"
    manifests: list[Manifest] = []
    for resource in told["resources"]:
        path = directory / resource
        manifests += _rendered(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    manifests = copy.deepcopy(manifests)
    found = {key(manifest): manifest for manifest in manifests}
    for replicas in told.get("replicas", ()):
        (target,) = (m for (_, name), m in found.items() if name == replicas["name"] and "replicas" in m["spec"])
        target["spec"]["replicas"] = replicas["count"]
    for patch in told.get("patches", ()):
        for step in yaml.safe_load(patch["patch"]):
            _replace(found[patch["target"]["kind"], patch["target"]["name"]], step)
    for image in told.get("images", ()):
        for template in pods(manifests).values():
            for container in template["spec"]["containers"]:
                if container["image"].partition(":")[0] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for manifest in manifests:
        if "namespace" in told and manifest["kind"] not in NAMESPACED:
            manifest["metadata"]["namespace"] = told["namespace"]
    return manifests


def _replace(manifest: Manifest, step: dict[str, Any]) -> None:
    assert step["op"] == "replace"
    *parents, last = step["path"].strip("/").split("/")
    node: Any = manifest
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    assert last in node, step["path"]
    node[last] = step["value"]
