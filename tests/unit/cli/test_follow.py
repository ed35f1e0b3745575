"""When a deploy counts as done, failed or overtaken."""

from __future__ import annotations

from mesh.cli.follow import ApplicationsFailed, Following
from mesh.errors import Conflict, DeployFailed
from mesh.model import Failure
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api


def application(
    state: pb.ApplicationState.ValueType = pb.APPLICATION_STATE_RUNNING,
    revision: int = 2,
    serving: int = 2,
    message: str = "",
) -> pb.ApplicationStatus:
    made = pb.ApplicationStatus(name="a", state=state, revision=revision, serving_revision=serving, message=message)
    if state == pb.APPLICATION_STATE_DEPLOY_FAILED:
        made.failure.message, made.failure.field, made.failure.hint = message, "import_path", "mend it"
    return made


def status(*applications: pb.ApplicationStatus) -> api.Status:
    return api.Status(applications=applications)


def test_done_when_running_at_the_revision() -> None:
    following = Following.of([api.AppliedApplication(name="a", revision=2, change=api.CHANGE_UPDATED)])
    assert following.take(status(application(revision=1, serving=1))) == []
    assert following.awaited == ["a"]
    assert following.take(status(application(pb.APPLICATION_STATE_DEPLOYING, serving=1, message="being built"))) == [
        "a: revision 2 deploying: being built"
    ]
    assert following.awaited == ["a"]
    assert following.take(status(application())) == ["a: revision 2 is running"]
    assert following.awaited == []
    assert following.error() is None
    assert following.states == {"a": "RUNNING"}


def test_a_line_is_said_once() -> None:
    following = Following({"a": 2})
    deploying = status(application(pb.APPLICATION_STATE_DEPLOYING, serving=1))
    assert len(following.take(deploying)) == 1
    assert following.take(deploying) == []


def test_failure_carries_the_reason() -> None:
    following = Following({"a": 2})
    lines = following.take(status(application(pb.APPLICATION_STATE_DEPLOY_FAILED, serving=1, message="ValueError: no")))
    assert lines == ["a: revision 2 failed and was rolled back to revision 1"]
    assert following.awaited == []
    error = following.error()
    assert isinstance(error, ApplicationsFailed)
    assert error.failures == {"a": Failure("ValueError: no", "import_path", "mend it")}
    assert error.message == "application 'a' failed: ValueError: no"
    assert error.ends == {"a": "revision 2 failed and was rolled back to revision 1"} and error.rolled_back


def test_several_failures_are_one_error() -> None:
    following = Following({"a": 1, "b": 1}, failures={"b": Failure("y"), "a": Failure("x")})
    error = following.error()
    assert isinstance(error, DeployFailed)
    assert error.message == "application 'a' failed: x\napplication 'b' failed: y"


def test_overtaken_by_a_newer_revision() -> None:
    following = Following({"a": 2})
    following.take(status(application(revision=3, serving=3)))
    assert following.awaited == []
    assert isinstance(following.error(), Conflict)


def test_overtaken_by_a_delete() -> None:
    following = Following({"a": 2})
    following.take(status())
    assert following.awaited == ["a"]
    following.take(status(application(pb.APPLICATION_STATE_DEPLOYING)))
    following.take(status())
    assert isinstance(following.error(), Conflict)


def test_deleted_when_gone() -> None:
    following = Following.of([api.AppliedApplication(name="a", revision=2, change=api.CHANGE_DELETED)])
    assert following.take(status(application(pb.APPLICATION_STATE_DELETING))) == ["a: being deleted, 0 replicas left"]
    assert following.take(status()) == ["a: deleted"]
    assert following.awaited == []
    assert following.states == {"a": "GONE"}


def old(**fields: object) -> pb.ApplicationStatus:
    return pb.ApplicationStatus(name="old", state=pb.APPLICATION_STATE_RUNNING, **fields)  # type: ignore[arg-type]


def test_what_is_left_out_goes_last_and_stays_if_the_rest_fails() -> None:
    following = Following({"a": 2}, leaving={"old"})
    building = application(pb.APPLICATION_STATE_DEPLOYING, serving=0, message="being built")
    waits = old(leaving=True, message="is deleted once a can serve")
    assert following.take(status(building, waits))[-1] == "old: is deleted once a can serve"
    assert following.awaited == ["a", "old"]
    failed = application(pb.APPLICATION_STATE_DEPLOY_FAILED, serving=0, message="no")
    assert following.take(status(failed, waits)) == ["a: revision 2 failed"]
    assert following.awaited == ["old"]
    assert following.take(status(failed, old())) == ["old: not deleted, because the deploy failed"]
    assert following.awaited == []
    assert isinstance(following.error(), ApplicationsFailed)


def test_what_is_not_being_deleted_yet_is_waited_for() -> None:
    following = Following(leaving={"old"})
    assert following.take(status(old())) == []
    assert following.awaited == ["old"]


def test_deployed_again_while_it_is_deleted() -> None:
    following = Following(leaving={"a"})
    following.take(status(application(pb.APPLICATION_STATE_DELETING)))
    following.take(status(application()))
    assert following.awaited == []
    assert isinstance(following.error(), Conflict)
