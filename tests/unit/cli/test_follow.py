"""When a deploy counts as done, failed or overtaken."""

from __future__ import annotations

from mesh.cli.follow import Following
from mesh.errors import Conflict, DeployFailed
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api


def application(
    state: pb.ApplicationState.ValueType = pb.APPLICATION_STATE_RUNNING,
    revision: int = 2,
    serving: int = 2,
    message: str = "",
) -> pb.ApplicationStatus:
    return pb.ApplicationStatus(name="a", state=state, revision=revision, serving_revision=serving, message=message)


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
    following.take(status(application(pb.APPLICATION_STATE_DEPLOY_FAILED, serving=1, message="ValueError: no")))
    assert following.awaited == []
    error = following.error()
    assert isinstance(error, DeployFailed)
    assert error.message == "application 'a' failed\nValueError: no"


def test_several_failures_are_one_error() -> None:
    following = Following({"a": 1, "b": 1}, failures={"a": "x", "b": "y"})
    error = following.error()
    assert isinstance(error, DeployFailed)
    assert error.message == "2 applications failed\na: x\nb: y"


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
