from __future__ import annotations

import pytest
import typer

from mesh.cli import output_revisions
from mesh.cli.follow import under_way
from mesh.cli.output import Style
from mesh.cli.revisions import _counts
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api
from mesh.v1 import revision_service_pb2 as revisions_pb


def test_counts() -> None:
    assert _counts(["Echo=2", "Other=0"]) == {"Echo": 2, "Other": 0}


@pytest.mark.parametrize("wrong", ["Echo", "Echo=", "=2", "Echo=-1", "Echo=x", "Echo=99999999", "Echo=²"])
def test_counts_that_are_none(wrong: str) -> None:
    with pytest.raises(typer.BadParameter, match="DEPLOYMENT=N"):
        _counts([wrong])
    with pytest.raises(typer.BadParameter, match="twice"):
        _counts(["Echo=1", "Echo=2"])


def test_history() -> None:
    message = revisions_pb.ListRevisionsResponse(
        revisions=[
            revisions_pb.Revision(
                revision=2,
                accepted_at=95.0,
                cause=revisions_pb.REVISION_CAUSE_ROLLBACK,
                detail="to revision 1",
                outcome=revisions_pb.REVISION_OUTCOME_FAILED,
                message="ValueError: no",
                config=pb.ApplicationConfig(import_path="m:app"),
            ),
            revisions_pb.Revision(revision=1, outcome=revisions_pb.REVISION_OUTCOME_SERVING),
        ]
    )
    assert output_revisions.history(message, Style(now=100.0)).splitlines() == [
        "REVISION   OUTCOME   AGE   CAUSE                    CODE    MESSAGE",
        "2          FAILED    5s    rollback to revision 1   m:app   ValueError: no",
        "1          SERVING   -     -",
    ]
    assert '"accepted_at": "1970-01-01T00:01:35.000Z"' in output_revisions.history(message, Style("json"))
    assert output_revisions.history(revisions_pb.ListRevisionsResponse(), Style()) == "no revisions\n"
    assert output_revisions.paused("a", 3, True, Style()) == "a is paused at revision 3\n"
    assert '"paused": false' in output_revisions.paused("a", 3, False, Style("json"))


def test_what_is_still_under_way() -> None:
    def status(**fields: object) -> api.Status:
        item = pb.ApplicationStatus(name="a", revision=2, state=pb.APPLICATION_STATE_DEPLOYING)
        item.MergeFrom(pb.ApplicationStatus(**fields))  # type: ignore[arg-type]
        return api.Status(applications=[item])

    assert under_way(status(), {"a": 2}) == {"a": 2}
    assert under_way(status(paused=True), {"a": 2}) == {}
    assert under_way(status(revision=3), {"a": 2}) == {}
    assert under_way(status(state=pb.APPLICATION_STATE_DEPLOY_FAILED), {"a": 2}) == {}
    assert under_way(status(state=pb.APPLICATION_STATE_RUNNING, leaving=True), {"a": 2}) == {"a": 2}
    assert under_way(api.Status(), {"a": 2}) == {}
