from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from mesh.controlplane import interfaces
from mesh.controlplane.builds import PLAN_BYTES_MAX, Build, plan_of, version_of
from mesh.controlplane.limits import DETAILS_CHARACTERS_MAX, LINE_CHARACTERS_MAX, bounded_failure, bounded_status
from mesh.controlplane.records import decode_application, encode_application
from mesh.controlplane.store import VALUE_BYTES_MAX
from mesh.model import (
    Application,
    ApplicationConfig,
    Awaited,
    BuiltDeployment,
    DeploymentConfig,
    Failure,
    Interface,
    JsonOptions,
    Plan,
    ReplicaStatus,
)
from mesh.transcode.packed import PACKED_BYTES_MAX, SET_BYTES_MAX
from tests.support.control_world import World, config
from tests.support.interfaces import SERVICE, described, interface

ASCII = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789__"


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def large(seed: int) -> Interface:
    """A sound interface of about 220 KiB that does not compress further: in a field that nobody knows."""
    comment = "".join(random.Random(seed).choices(ASCII, k=300_000)).encode()
    unknown = FileDescriptorSet(file=[FileDescriptorProto(name=comment.decode())]).SerializeToString()
    return Interface(True, (SERVICE,), zlib.compress(described() + b"\x12" + unknown[1:]))


def planned(
    *found: Interface, route_prefix: str = "/a", others: tuple[Application, ...] = (), **options: object
) -> Plan | Failure:
    built = tuple(
        BuiltDeployment(i == 0, DeploymentConfig(name=f"D{i}", **options), each)  # type: ignore[arg-type]
        for i, each in enumerate(found)
    )
    application = Application(config=ApplicationConfig("a", route_prefix, "m:app"), revision=3)
    return plan_of(application, Build("b", "a", 3, "w", 1, 0.0, 60.0, ended=True, deployments=built), others)


def refused(*found: Interface, route_prefix: str = "/a", others: tuple[Application, ...] = ()) -> str:
    failure = planned(*found, route_prefix=route_prefix, others=others)
    assert isinstance(failure, Failure), failure
    assert failure.field == "import_path" and failure.hint
    return failure.message


def plan(found: Interface, route_prefix: str = "/a") -> Plan:
    result = planned(found, route_prefix=route_prefix)
    assert isinstance(result, Plan)
    return result


def other(route_prefix: str, *paths: str, **fields: object) -> Application:
    """Another application, which serves `paths`."""
    made = replace(plan(interface(*paths), route_prefix), revision=1)
    config = replace(made.config, name="other")
    fields = {"config": config, "revision": 1, "plan": made, "serving": made, **fields}
    return Application(**fields)  # type: ignore[arg-type]


def test_a_sound_interface_is_planned() -> None:
    found = interface("/v1/orders/{text}")
    (spec,) = plan(found).deployments
    assert spec.interface == found
    assert isinstance(planned(Interface()), Plan)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Interface(True, (SERVICE,), b"no zlib"), "damaged"),
        (Interface(True, (SERVICE,), zlib.compress(described())[:-5]), "cut off"),
        (Interface(True, (SERVICE,), zlib.compress(noise(1000))), "malformed"),
        (Interface(True, (SERVICE,), noise(PACKED_BYTES_MAX + 1)), f"{PACKED_BYTES_MAX} are allowed"),
        (Interface(True, (SERVICE,), zlib.compress(bytes(SET_BYTES_MAX + 1))), f"{SET_BYTES_MAX} bytes allowed"),
        (Interface(True, (SERVICE,), b""), "cut off"),
        (Interface(True, (SERVICE, "shop.v1.Other"), zlib.compress(described())), "service 'shop.v1.Other'"),
        (Interface(True, (SERVICE, SERVICE), zlib.compress(described())), "stands twice"),
        (Interface(True, (), zlib.compress(described())), "no services"),
        (Interface(True), "no HTTP handler"),
        (interface("/v1/{text"), "the path '/v1/{text'"),
        (interface("/v1/{nope}"), "nope"),
        (interface("/v1/x", "/v1/x"), "the same route"),
    ],
)
def test_what_no_gateway_could_serve_is_refused(found: Interface, text: str) -> None:
    message = refused(found)
    assert text in message
    assert "'D0'" in message or "descriptors" in message


def test_whatever_else_a_schema_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "unpacked", lambda data: 1 / 0)
    monkeypatch.setattr(interfaces, "_loaded_size", lambda spec: 0)
    assert "ZeroDivisionError" in refused(interface("/only/here"))


def test_bombs_count_together() -> None:
    bomb = Interface(True, (SERVICE,), zlib.compress(bytes(SET_BYTES_MAX - 10)))
    assert "for all together" in refused(bomb, bomb)


def test_a_service_is_in_one_deployment_of_an_application() -> None:
    assert "in two deployments, 'D0' and 'D1'" in refused(interface(), interface())


def test_a_plan_that_could_not_be_stored_twice_is_refused() -> None:
    found = [large(seed) for seed in range(3)]
    assert all(len(each.descriptor_set) < PACKED_BYTES_MAX for each in found)
    assert f"{PLAN_BYTES_MAX} are allowed" in refused(*found)


def test_the_descriptors_of_all_applications_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "DESCRIPTORS_BYTES_MAX", 2 * len(interface("/x").descriptor_set))
    taken = [replace(other(f"/o{i}", "/x"), config=ApplicationConfig(f"o{i}")) for i in range(2)]
    assert isinstance(planned(interface("/x"), others=(taken[0],)), Plan)
    assert "of all applications" in refused(interface("/x"), others=tuple(taken))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_replicas": -1}, "D0.num_replicas must be"),
        ({"request_timeout_s": float("nan")}, "D0.request_timeout_s must be"),
        ({"user_config_json": "{"}, "D0.user_config is not JSON"),
        ({"name": "a/b"}, "a/b.name must be"),
    ],
)
def test_options_that_no_code_could_declare_are_refused(options: dict[str, object], text: str) -> None:
    built = BuiltDeployment(True, replace(DeploymentConfig(name="D0"), **options))  # type: ignore[arg-type]
    application = Application(config=ApplicationConfig("a", "/a", "m:app"), revision=1)
    failure = plan_of(application, Build("b", "a", 1, "w", 1, 0.0, 60.0, ended=True, deployments=(built,)))
    assert isinstance(failure, Failure) and text in failure.message


def test_two_deployments_of_one_name_are_refused() -> None:
    built = (BuiltDeployment(True, DeploymentConfig(name="D")), BuiltDeployment(False, DeploymentConfig(name="D")))
    application = Application(config=ApplicationConfig("a", "/a", "m:app"), revision=1)
    failure = plan_of(application, Build("b", "a", 1, "w", 1, 0.0, 60.0, ended=True, deployments=built))
    assert isinstance(failure, Failure) and "two deployments of one name" in failure.message


# Routes


def test_a_route_of_another_application_is_refused() -> None:
    taken = other("/", "/a/v1/{text}")
    assert refused(interface("/v1/{text}"), others=(taken,)) == (
        "GET '/a/v1/{text}' of shop.v1.Shop/Buy is served by application 'other' already"
    )
    assert isinstance(planned(interface("/v1/{text}"), route_prefix="", others=(taken,)), Plan)


@pytest.mark.parametrize("found", [Interface(False, (), b""), interface("/v2/{text}")])
def test_a_prefix_that_would_hide_routes_of_another_application_is_refused(found: Interface) -> None:
    failure = planned(found, others=(other("/", "/a/v1/{text}"),))
    assert isinstance(failure, Failure) and failure.field == "route_prefix" and failure.hint
    assert failure.message == (
        "GET '/a/v1/{text}' of application 'other' would never be reached: all below '/a' goes to this application"
    )
    for free in ("/b/v1/{text}", "/ab/{text}", "/{text}"):
        assert isinstance(planned(found, others=(other("/", free),)), Plan), free


def test_routes_below_the_prefix_of_another_application_are_refused() -> None:
    failure = planned(interface("/v1/{text}", "/v2"), route_prefix="/", others=(other("/v1", "/x"),))
    assert isinstance(failure, Failure) and failure.message == (
        "GET '/v1/{text}' of this application would never be reached: all below '/v1' goes to application 'other'"
    )


@pytest.mark.parametrize("service", ["grpc.health.v1.Health", "mesh.v1.IngressService"])
def test_a_service_that_the_gateway_answers_itself_is_refused(service: str) -> None:
    assert "the gateway's own" in refused(Interface(True, (service,), zlib.compress(described())))


def test_the_same_service_may_be_in_two_applications() -> None:
    assert isinstance(planned(interface("/v1/{text}"), others=(other("/other", "/v1/{text}"),)), Plan)


def test_what_is_going_holds_no_route() -> None:
    found = interface("/v1/{text}")
    for gone in (
        other("/", "/a/v1/{text}", deleting=True),
        other("/", "/a/v1/{text}", leaving=True),
        other("/", "/a/v1/{text}", awaits=(Awaited("a", 3),), revision=2),
        other("/", "/a/v1/{text}", failure=Failure("no"), serving=None),
    ):
        assert isinstance(planned(found, others=(gone,)), Plan), gone


def test_what_serves_holds_its_routes_until_the_next_revision_does() -> None:
    moved = replace(plan(interface("/v2"), "/"), revision=2)
    changing = replace(other("/", "/a/v1/{text}"), revision=2)
    assert refused(interface("/v1/{text}"), others=(changing,))
    assert refused(interface("/v1/{text}"), others=(replace(changing, plan=moved),))
    assert isinstance(planned(interface("/v1/{text}"), others=(replace(changing, plan=moved, serving=moved),)), Plan)


def test_of_two_that_come_at_once_one_is_refused() -> None:
    world = World("w1")
    world.code = lambda c: (BuiltDeployment(True, DeploymentConfig(name="Echo"), interface(c.import_path)),)
    world.apply(
        replace(config("one", code="/two/x"), route_prefix="/"), replace(config("two", code="/x"), route_prefix="/two")
    )
    world.settle()
    one, two = world.applications["one"], world.applications["two"]
    assert one.failure is None and one.serving is not None
    assert two.failure is not None and "is served by application 'one' already" in two.failure.message
    world.apply(replace(config("two", code="/y"), route_prefix="/three"), keep_others=True)
    world.settle()
    assert world.applications["two"].failure is None


def test_a_refused_revision_leaves_the_one_before() -> None:
    world = World("w1")
    found = {"good": interface("/x"), "bad": Interface(True, (SERVICE,), b"?")}
    world.code = lambda c: (BuiltDeployment(True, DeploymentConfig(name="Echo"), found[c.import_path]),)
    world.apply(config(code="good"))
    world.settle()
    before = world.endpoints("app")
    world.apply(config(code="bad"))
    world.settle()
    failure = world.applications["app"].failure
    assert failure is not None and failure.field == "import_path"
    assert world.endpoints("app") == before


# Versions, records and bounds


def test_a_changed_interface_is_a_new_version() -> None:
    config = ApplicationConfig("a", "/a", "m:app")
    versions = {version_of(config, "D", found) for found in (interface("/x"), interface("/y"), Interface())}
    assert len(versions) == 3
    assert version_of(config, "D", Interface()) == version_of(config, "D", Interface(grpc_only=True))
    assert version_of(config, "D", interface("/x")) == version_of(config, "D", interface("/x"))


def test_superseded_plans_are_stored_as_far_as_there_is_room() -> None:
    plans = [replace(plan(large(seed)), revision=seed) for seed in range(1, 6)]
    application = Application(plan=plans[4], serving=plans[0], superseded=tuple(plans[3:0:-1]), failure=Failure("no"))
    value = encode_application(application)
    assert len(value) <= VALUE_BYTES_MAX
    stored = decode_application("k", value)
    assert (stored.plan, stored.serving) == (plans[4], plans[0])
    assert stored.superseded == (plans[3], plans[2])


def test_deleting_forgets_the_descriptors() -> None:
    world = World("w1")
    world.code = lambda c: (BuiltDeployment(True, DeploymentConfig(name="Echo"), large(1)),)
    world.apply(config())
    world.settle()
    world.apply()
    assert len(encode_application(world.applications["app"])) < 4096
    world.settle()
    assert world.applications == {}


def test_what_a_worker_tells_is_bounded() -> None:
    long = Failure("m" * 9999, "f" * 9999, "h" * 9999, "d" * 99_999 + "end")
    kept = bounded_failure(long)
    assert len(kept.message) == len(kept.field) == len(kept.hint) == LINE_CHARACTERS_MAX
    assert len(kept.details) == DETAILS_CHARACTERS_MAX and kept.details.endswith("end")
    short = Failure("m", "f", "h", "d")
    assert bounded_failure(short) == short
    status = bounded_status(ReplicaStatus("r", message="m" * 9999, address="a" * 9999, failure=long))
    assert len(status.message) == len(status.address) == LINE_CHARACTERS_MAX and status.failure == kept


def test_json_options_restart_nothing() -> None:
    world = World("w1")
    world.code = lambda c: (
        BuiltDeployment(True, DeploymentConfig(name="Echo", json=JsonOptions(proto_names=True)), interface("/x")),
    )
    world.apply(config())
    world.settle()
    before = world.endpoints("app")
    world.apply(config(json=JsonOptions(emit_defaults=True)))
    world.settle()
    assert world.endpoints("app") == before
    (spec,) = world.applications["app"].serving.deployments  # type: ignore[union-attr]
    assert spec.settings.json == JsonOptions(emit_defaults=True, proto_names=True)
