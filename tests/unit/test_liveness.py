"""The times by which processes give each other up, and how they fit together."""

from __future__ import annotations

import importlib

import pytest

from mesh import liveness
from mesh.controlplane import at_leader, leader
from mesh.controlplane.etcd_options import channel_arguments
from mesh.controlplane.registry import Presence, Registry
from mesh.liveness import HOLD_S, Silence, Standstill
from mesh.settings import ControlPlaneSettings

SETTINGS = ControlPlaneSettings()
INTERVAL_S = SETTINGS.heartbeat_interval_s


def test_a_new_leader_waits_longer_than_workers_need_to_find_it() -> None:
    detected_s = liveness.silence_limit_s(INTERVAL_S)
    found_s = liveness.RECONNECT.max_s + liveness.ADDRESSES_EXPECTED * liveness.CONNECT_TIMEOUT_S
    assert SETTINGS.takeover_grace_s > detected_s + found_s
    assert liveness.return_s(INTERVAL_S) == detected_s + found_s


def test_a_worker_that_lost_its_session_has_time_for_all_addresses() -> None:
    assert SETTINGS.worker_grace_s > liveness.round_s()
    assert SETTINGS.worker_grace_s <= SETTINGS.takeover_grace_s


def test_who_comes_back_is_known_again_at_once() -> None:
    """Until workers and gateways have registered, a control plane that is back shows none."""
    assert all(liveness.RECONNECT.pause_s(attempt, lambda: 0.999) < 1.0 for attempt in range(100))


def test_a_frozen_leader_is_left_about_when_another_can_lead() -> None:
    assert liveness.silence_limit_s(INTERVAL_S) <= 2 * leader.TTL_S
    assert leader.TTL_S < at_leader.LEADER_WAIT_S


def test_who_takes_office_answers_before_others_give_up() -> None:
    assert liveness.TAKE_OFFICE_S < liveness.ANSWER_TIMEOUT_S


def test_pings_are_rarer_than_servers_take_them() -> None:
    assert liveness.PING_INTERVAL_MIN_S < liveness.PING_INTERVAL_S / 2
    assert liveness.ETCD_PING_INTERVAL_S > 5.0


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mesh.pipe.link", "CHANNEL_OPTIONS"),
        ("mesh.pipe.discovery", "CHANNEL_OPTIONS"),
        ("mesh.worker.agent", "_OPTIONS"),
        ("mesh.worker.replica_client", "_OPTIONS"),
        ("mesh.worker.replica", "SERVER_OPTIONS"),
        ("mesh.controlplane.server", "OPTIONS"),
        ("mesh.controlplane.forward", "OPTIONS"),
        ("mesh.cli.client", "_OPTIONS"),
    ],
)
def test_every_connection_within_the_mesh_is_pinged(module: str, name: str) -> None:
    options = getattr(importlib.import_module(module), name)
    assert set(liveness.pings()) <= set(options)
    assert len(dict(options)) == len(options), "each option stands once"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mesh.pipe.discovery", "CHANNEL_OPTIONS"),
        ("mesh.worker.agent", "_OPTIONS"),
        ("mesh.controlplane.forward", "OPTIONS"),
        ("mesh.cli.client", "_OPTIONS"),
    ],
)
def test_who_looks_for_a_control_plane_pauses_as_it_likes_and_not_as_grpc_does(module: str, name: str) -> None:
    options = dict(getattr(importlib.import_module(module), name))
    assert options["grpc.use_local_subchannel_pool"] == 1


def test_etcd_is_pinged_as_often_as_it_takes() -> None:
    options = dict(channel_arguments("etcd", tls=False))
    assert options["grpc.keepalive_time_ms"] == 10_000
    assert options["grpc.http2.ping_timeout_ms"] == 5_000
    assert options["grpc.keepalive_permit_without_calls"] == 0


def test_the_workers_of_a_new_leader_have_longer() -> None:
    registry = Registry()
    registry.expect(["w1"], now=100.0, extra_s=6.0)
    worker = registry.workers["w1"]
    assert worker.presence(115.9, 10.0) is Presence.AWAY
    assert worker.presence(116.0, 10.0) is Presence.LOST


def test_silence_has_a_limit() -> None:
    silence = Silence(2.0, now=100.0)
    assert silence.wait_s(100.0) == 6.0
    silence.heard(104.0)
    assert silence.wait_s(106.0) == 4.0
    assert silence.wait_s(110.0) == 0.0


def test_who_stood_still_itself_waits_for_the_whole_time_again() -> None:
    silence = Silence(2.0, now=100.0)
    assert silence.wait_s(100.0) == 6.0
    # It was to look at 106, and looks at 130: frozen, or the host slept.
    assert silence.wait_s(130.0) == 6.0
    assert silence.wait_s(136.0) == 0.0


def test_looking_a_little_late_is_no_standstill() -> None:
    silence = Silence(2.0, now=100.0)
    silence.wait_s(100.0)
    assert silence.wait_s(107.9) == 0.0


def test_a_process_that_stood_still_begins_nothing_at_once() -> None:
    standstill = Standstill()
    assert standstill.hold_s(1000.0) == 0.0, "nobody ticks"
    for second in range(3):
        standstill.tick(100.0 + second)
        assert standstill.hold_s(100.9 + second) == 0.0
    assert standstill.hold_s(120.0) == HOLD_S
    standstill.tick(120.0)
    assert 0.0 < standstill.hold_s(120.1) < HOLD_S, "whichever comes first, timer or message"
    assert standstill.hold_s(120.0 + HOLD_S) == 0.0


def test_a_tick_that_comes_late_is_a_standstill() -> None:
    standstill = Standstill()
    standstill.tick(100.0)
    standstill.tick(110.0)
    assert standstill.hold_s(110.0) == HOLD_S
