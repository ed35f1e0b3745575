"""What the commands on revisions write: the history of an application, and whether it is paused.

Owns the form, by the rules of `output`. Pure. Called by `revisions`.
"""

from __future__ import annotations

from mesh.cli.output import Style, age, as_data, data, enum_name, shortened, table
from mesh.v1 import revision_service_pb2 as pb


def history(message: pb.ListRevisionsResponse, style: Style) -> str:
    """Return the revisions of an application, the newest first."""
    if style.form != "table":
        return data(as_data(message), style)
    header = ("REVISION", "OUTCOME", "AGE", "CAUSE", "CODE", "MESSAGE")
    return table(header, [_row(revision, style.now) for revision in message.revisions], style) or "no revisions\n"


def paused(name: str, revision: int, is_paused: bool, style: Style) -> str:
    """Return whether the rollouts of an application stand still now."""
    if style.form != "table":
        return data({"name": name, "revision": revision, "paused": is_paused}, style)
    return f"{name} is {'paused' if is_paused else 'not paused'} at revision {revision}\n"


def _row(revision: pb.Revision, now: float) -> tuple[str, ...]:
    cause = enum_name(pb.RevisionCause.DESCRIPTOR, revision.cause).lower()
    return (
        str(revision.revision),
        enum_name(pb.RevisionOutcome.DESCRIPTOR, revision.outcome),
        age(now - revision.accepted_at) if revision.accepted_at else "-",
        "-" if not revision.cause else f"{cause} {revision.detail}".rstrip(),
        revision.config.import_path,
        shortened(revision.message),
    )
