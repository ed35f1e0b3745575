"""What `describe` writes: all there is to know of one application, replica or worker.

Owns the form for people; programs get the messages. Pure, like `output`. Called by `watching`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mesh import wire
from mesh.cli.output import Style, age, counted, enum_name, printable, table
from mesh.cli.output_events import events_table
from mesh.cli.output_status import message_of, reason_of, replicas_table, restarts_of
from mesh.model import DeploymentSettings
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import event_pb2

TRACEBACK_LINES_MAX = 12
FAILURES_MAX = 3
"""Replicas whose last failures are shown with an application."""
_DEFAULTS = DeploymentSettings()
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Placed:
    """A replica and what it belongs to."""

    application: pb.ApplicationStatus
    deployment: pb.DeploymentStatus
    placement: pb.ReplicaPlacement

    @property
    def status(self) -> pb.ReplicaStatus:
        """How it is doing."""
        return self.placement.status


def placed(applications: Iterable[pb.ApplicationStatus]) -> Iterator[Placed]:
    """Yield every replica."""
    for application in applications:
        for deployment in application.deployments:
            for placement in deployment.replicas:
                yield Placed(application, deployment, placement)


def application(item: pb.ApplicationStatus, config: pb.ApplicationConfig | None, style: Style) -> str:
    """Return all there is to know of an application. `config` is its goal; None: it has none."""
    revision = f"{item.revision}"
    if item.serving_revision != item.revision:
        revision += f", serving {item.serving_revision or 'none'}"
    facts = [
        ("Application", item.name),
        ("State", _state(enum_name(pb.ApplicationState.DESCRIPTOR, item.state), item.reason)),
        ("Message", item.message),
        ("Revision", f"{revision}, applied {_ago(item.applied_at, style)}"),
        ("Route", item.route_prefix or "none"),
        *(_goal(config) if config is not None else ()),
    ]
    blocks = [_facts(facts)]
    if item.HasField("failure"):
        blocks.append(_failure(f"Why revision {item.revision} failed", item.failure))
    for deployment in item.deployments:
        blocks += _deployment(deployment, style)
    blocks += _last_failures([each for each in placed([item]) if each.status.HasField("last_failure")], style)
    return _joined([*blocks, _events(item.last_events, style)])


def replica(item: Placed, style: Style) -> str:
    """Return all there is to know of a replica."""
    status = item.status
    facts = [
        ("Replica", status.replica_id),
        ("Deployment", f"{item.application.name}/{item.deployment.name}"),
        ("State", _state(enum_name(pb.ReplicaState.DESCRIPTOR, status.state), status.reason)),
        ("For", age(style.now - status.since) if status.since else "-"),
        ("Message", message_of(status, style.now)),
        ("Revision", f"{item.placement.revision}, settings of revision {status.settings_revision or '-'}"),
        ("Worker", item.placement.worker_id),
        ("Process", str(status.pid or "none")),
        ("Address", status.address),
        ("Metrics", status.admin_address),
        ("Ongoing", counted(status.ongoing_requests, "request")),
        ("Restarts", f"{restarts_of(status)} ({status.crashes} after having been ready)"),
    ]
    blocks = [_facts(facts), _settings(item.deployment)]
    if status.HasField("failure") and status.failure != status.last_failure:
        blocks.append(_failure("What is wrong", status.failure))
    return _joined([*blocks, *_last_failures([item], style), _events(item.placement.last_events, style)])


def worker(item: pb.WorkerStatus, replicas: Sequence[Placed], style: Style) -> str:
    """Return all there is to know of a worker. `replicas` are those on it."""
    facts = [
        ("Worker", item.worker_id),
        ("State", _state(enum_name(pb.WorkerState.DESCRIPTOR, item.state), item.reason)),
        ("Message", item.message),
        ("Host", item.host),
        ("Last seen", _ago(item.last_seen, style)),
        ("CPUs", str(item.resources.cpus)),
        ("Memory", f"{item.resources.memory_bytes / 2**30:.1f} GiB"),
        ("Replicas", f"{item.replicas} of at most {item.resources.max_replicas}"),
    ]
    of_it = pb.DeploymentStatus(replicas=[each.placement for each in replicas])
    return _joined(
        [_facts(facts), _section("Replicas", replicas_table([of_it], style)), _events(item.last_events, style)]
    )


def _deployment(item: pb.DeploymentStatus, style: Style) -> list[str]:
    facts = [
        ("Deployment", f"{item.name}{' (ingress)' if item.ingress else ''}"),
        ("State", _state(enum_name(pb.DeploymentState.DESCRIPTOR, item.state), item.reason)),
        ("Message", item.message),
        ("Ready", f"{item.ready_replicas} of {item.target_replicas}"),
        ("Services", ", ".join(item.services)),
        ("Endpoints", _endpoints(item)),
    ]
    return [_facts(facts), _settings(item), _section("Replicas", replicas_table([item], style))]


def _endpoints(item: pb.DeploymentStatus) -> str:
    addresses = [each.status.address for each in item.replicas if each.status.address]
    more = f" and {len(addresses) - 4} more" if len(addresses) > 4 else ""
    return ", ".join(addresses[:4]) + more


def _settings(item: pb.DeploymentStatus) -> str:
    """Return the settings in force, and where each comes from."""
    if not item.HasField("settings"):
        return ""
    settings = wire.from_proto(item.settings, DeploymentSettings)
    rows = []
    for field in fields(DeploymentSettings):
        value, default = getattr(settings, field.name), getattr(_DEFAULTS, field.name)
        source = "config" if field.name in item.configured else "default" if value == default else "code"
        if source != "default" or isinstance(value, (int, float)):
            rows.append((field.name.removesuffix("_json"), _shown(value), source))
    return _section("Settings", table(("SETTING", "VALUE", "FROM"), rows, Style()))


def _shown(value: Any) -> str:
    if isinstance(value, (int, float, str)):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return text if len(text) <= 80 else text[:79] + "…"
    chosen = {field.name: getattr(value, field.name) for field in fields(value)}
    return ", ".join(f"{name}={option}" for name, option in chosen.items() if option is not None) or "-"


def _goal(config: pb.ApplicationConfig) -> list[tuple[str, str]]:
    """Return what code it runs and in what environment; the values of variables may be secrets."""
    environment = config.runtime_env
    names = [*environment.env_vars, *environment.env_vars_from_env, *environment.env_vars_from_file]
    return [
        ("Code", config.import_path),
        ("Working dir", environment.working_dir),
        ("Modules", ", ".join(environment.py_modules)),
        ("Packages", ", ".join(environment.pip)),
        ("Variables", ", ".join(sorted(names))),
    ]


def _last_failures(replicas: Sequence[Placed], style: Style) -> list[str]:
    """Return why replicas failed last, the latest first."""
    failed = sorted((r for r in replicas if r.status.HasField("last_failure")), key=lambda r: -r.status.last_failure_at)
    return [
        _failure(
            f"Last failure of {each.status.replica_id}, {_ago(each.status.last_failure_at, style)}",
            each.status.last_failure,
        )
        for each in failed[:FAILURES_MAX]
    ]


def _failure(title: str, failure: pb.Failure) -> str:
    details = failure.details.rstrip().split("\n") if failure.details.strip() else []
    cut = ["…"] if len(details) > TRACEBACK_LINES_MAX else []
    hint = [f"fix: {failure.hint}"] if failure.hint else []
    lines = [failure.message, *hint, *cut, *details[-TRACEBACK_LINES_MAX:]]
    return _section(title, "".join(f"{printable(line)}\n" for line in lines))


def _events(events: Iterable[event_pb2.Event], style: Style) -> str:
    return _section("Last events", events_table(events, style))


def _state(state: str, reason: int) -> str:
    word = reason_of(reason)
    return state if word in ("-", state) else f"{state} ({word})"


def _ago(unix_seconds: float, style: Style) -> str:
    return f"{age(style.now - unix_seconds)} ago" if unix_seconds else "never"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    known = [(label, value) for label, value in facts if value]
    return "".join(f"{label + ':':<14}{printable(value)}\n" for label, value in known)


def _section(title: str, text: str) -> str:
    if not text:
        return ""
    return f"{title}:\n" + "".join(f"{_INDENT}{line}\n" for line in text.rstrip("\n").split("\n"))


def _joined(blocks: Iterable[str]) -> str:
    return "\n".join(block for block in blocks if block)
