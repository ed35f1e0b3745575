from __future__ import annotations

from mesh.controlplane.parts import Parts
from mesh.controlplane.publish import Endpoint, RoutedApplication, RoutedDeployment, Snapshot
from mesh.model import Generation, Interface


def application(name: str, *endpoints: str, services: tuple[str, ...] = ()) -> RoutedApplication:
    interface = Interface(services=services, descriptor_set=b"x" if services else b"")
    deployment = RoutedDeployment("D", 1, 1, endpoints=tuple(Endpoint(e, e) for e in endpoints), interface=interface)
    return RoutedApplication(name, "/", "D", deployments=(deployment,))


def at(number: int) -> Generation:
    return Generation(1, number)


def test_a_part_changes_only_with_its_application() -> None:
    parts = Parts()
    parts.note(Snapshot(applications=(application("a", "1"), application("b", "2"))), at(1), ())
    parts.note(Snapshot(applications=(application("a", "1"), application("b", "3"))), at(2), ())
    assert (parts.changed({"a"}), parts.changed({"b"}), parts.changed({"a", "b"})) == (at(1), at(2), at(2))
    assert [each.name for each in parts.of({"b", "a"})] == ["a", "b"]


def test_what_only_gateways_need_is_left_out_and_changes_nothing() -> None:
    parts = Parts()
    parts.note(Snapshot(applications=(application("a", "1"),)), at(1), ())
    parts.note(Snapshot(applications=(application("a", "1", services=("s",)),)), at(2), ())
    assert parts.changed({"a"}) == at(1)
    assert parts.of({"a"})[0].deployments[0].interface == Interface()


def test_one_that_goes_has_changed_and_is_remembered_while_somebody_asks() -> None:
    parts = Parts()
    parts.note(Snapshot(applications=(application("a", "1"),)), at(1), ())
    parts.note(Snapshot(), at(2), ("a",))
    assert parts.changed({"a"}) == at(2) and parts.of({"a"}) == ()
    parts.note(Snapshot(applications=(application("b"),)), at(3), ())
    assert parts.changed({"a"}) == Generation()
