"""The Kubernetes manifests and the Helm chart: valid by the schemas, hardened, and alike."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import kubernetes_validate
import pytest

from deploy.tests.rendered import BIN, DEPLOY, Manifest, by_kubectl, chart, key, overlay, pods

OVERLAYS = ("development", "production")
VERSIONS = ("1.27", "1.31", "1.34")
SETS: dict[str, Callable[[], list[Manifest]]] = {
    "development": lambda: overlay("development"),
    "production": lambda: overlay("production"),
    "chart": lambda: chart(name="mesh"),
    "chart-plain": lambda: chart(
        "--set=gateway.autoscaling.enabled=false,networkPolicy.enabled=false,worker.image=shop:1,"
        "worker.env[0].name=A,worker.env[0].value=b,gateway.service.annotations.a=b,imagePullSecrets[0].name=s"
    ),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_by_the_schemas_of_kubernetes(name: str, version: str) -> None:
    for manifest in SETS[name]():
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_renders_an_overlay_to_the_same(name: str) -> None:
    theirs = by_kubectl(name)
    ours = overlay(name)
    # Where kubectl is not there, this proves at least that an overlay renders, and each name is there once.
    assert {key(m): m for m in ours} == {key(m): m for m in (theirs if theirs is not None else ours)}
    assert len({key(m) for m in ours}) == len(ours)


@pytest.mark.parametrize("name", SETS)
def test_pods_run_as_nobody_with_nothing(name: str) -> None:
    for template in pods(SETS[name]()).values():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["production", "chart"])
def test_what_is_asked_for_is_there(name: str) -> None:
    manifests = {key(m): m for m in SETS[name]()}
    assert manifests["Deployment", "mesh-controlplane"]["spec"]["replicas"] == 2
    assert ("StatefulSet", "mesh-worker") in manifests
    for role in ("controlplane", "gateway", "worker"):
        assert ("PodDisruptionBudget", f"mesh-{role}") in manifests
        assert ("NetworkPolicy", f"mesh-{role}") in manifests
        assert ("Service", f"mesh-{role}") in manifests
    scaled = manifests["HorizontalPodAutoscaler", "mesh-gateway"]["spec"]
    assert scaled["minReplicas"] >= 2
    assert "replicas" not in manifests["Deployment", "mesh-gateway"]["spec"], "that is the autoscaler's"
    for template in pods(list(manifests.values())).values():
        (container,) = template["spec"]["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert "--token-file=/etc/mesh/token/token" in container["args"]
        ports = {port["name"] for port in container["ports"]}
        assert all(container[probe]["httpGet"]["port"] in ports for probe in ("livenessProbe", "readinessProbe"))


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_their_pods(name: str) -> None:
    manifests = SETS[name]()
    labels = [template["metadata"]["labels"].items() for template in pods(manifests).values()]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        wanted = selector.get("matchLabels", selector)
        if manifest["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"):
            assert wanted
            assert sum(wanted.items() <= each for each in labels) == 1, key(manifest)
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            assert wanted.items() <= spec["template"]["metadata"]["labels"].items()


def test_a_pod_has_more_time_to_end_than_it_is_told_to_take() -> None:
    for manifests in (overlay("production"), chart()):
        for template in pods(manifests).values():
            (container,) = template["spec"]["containers"]
            flags = dict(arg.split("=", 1) for arg in container["args"] if "=" in arg)
            took = float(flags.get("--drain-timeout", 20)) + float(flags.get("--drain-delay", 0))
            assert template["spec"]["terminationGracePeriodSeconds"] > took


def test_what_a_worker_keeps_fits_on_its_volume() -> None:
    for manifests in (overlay("production"), chart()):
        (worker,) = (spec for name, spec in pods(manifests).items() if name.endswith("worker"))
        (container,) = worker["spec"]["containers"]
        (size,) = (arg.partition("=")[2] for arg in container["args"] if arg.startswith("--cache-size="))
        (volume,) = (v["emptyDir"]["sizeLimit"] for v in worker["spec"]["volumes"] if v["name"] == "state")
        logs_gib = 0.5
        assert float(size) + logs_gib < float(volume.removesuffix("Gi"))


def test_chart_and_manifests_say_the_same() -> None:
    plain, from_chart = pods(overlay("production")), pods(chart(name="mesh"))
    assert plain.keys() == from_chart.keys()
    for name, template in plain.items():
        (ours,), (theirs,) = template["spec"]["containers"], from_chart[name]["spec"]["containers"]
        store = [arg for arg in theirs["args"] if arg.startswith("--store=")]
        assert set(ours["args"]) - {"--store=$(MESH_STORE)"} == set(theirs["args"]) - set(store)
        for field in (
            "startupProbe",
            "livenessProbe",
            "readinessProbe",
            "securityContext",
            "volumeMounts",
            "resources",
        ):
            assert ours[field] == theirs[field], field
        pod, chart_pod = template["spec"], from_chart[name]["spec"]
        for field in ("securityContext", "volumes", "terminationGracePeriodSeconds"):
            assert pod[field] == chart_pod[field], field


def test_helm_lints_and_refuses_bad_values() -> None:
    lint = subprocess.run([BIN / "helm", "lint", "--strict", DEPLOY / "helm" / "mesh"], capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout + lint.stderr
    for bad in ("store=nothing", "controlplane.replicas=0", "typo=1", "token.secretName="):
        command = [str(BIN / "helm"), "template", "x", str(DEPLOY / "helm" / "mesh"), "--set", bad]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0, bad
        assert "schema" in done.stderr
