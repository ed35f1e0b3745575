"""Targets of channels, turns of addresses, service configs, configs of the control plane."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mesh_client import service_config
from mesh_client.addresses import AVOID_S, RoundRobin, grpc_target, http_origins
from mesh_client.admin_config import config_of
from mesh_client.errors import InvalidRequest
from mesh_client.policy import Backoff, Budget, Policy
from mesh_client.v1 import deployment_pb2 as pb


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("gateway:9000", "dns:///gateway:9000"),
        ("dns:///gateway:9000", "dns:///gateway:9000"),
        ("unix:/run/mesh.sock", "unix:/run/mesh.sock"),
        ("127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["localhost:1", "10.0.0.2:2"], "ipv4:127.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_targets(addresses: Any, target: str) -> None:
    assert grpc_target(addresses) == target


@pytest.mark.parametrize("addresses", ["", [], ["a:1", "b:2"], ["127.0.0.1:1", "[::1]:2"], ["127.0.0.1", "10.0.0.1:2"]])
def test_what_is_no_target(addresses: Any) -> None:
    with pytest.raises(ValueError):
        grpc_target(addresses)


def test_origins() -> None:
    assert http_origins("a:1") == ("http://a:1",)
    assert http_origins("http://a:1/, https://b") == ("http://a:1", "https://b")
    for wrong in ("ftp://a", "http://a/path", "http://", "", "http://a?b=c"):
        with pytest.raises(ValueError):
            http_origins(wrong)


def test_each_address_in_its_turn() -> None:
    turns = RoundRobin(("a", "b", "c"))
    assert [turns.order(0.0)[0] for _ in range(4)] == ["a", "b", "c", "a"]
    assert turns.order(0.0) == ["b", "c", "a"]


def test_who_took_no_connection_comes_last_for_a_while() -> None:
    turns = RoundRobin(("a", "b"))
    turns.refused("a", 0.0)
    assert turns.order(0.1) == ["b", "a"]
    assert turns.order(0.1) == ["b", "a"]
    assert turns.order(AVOID_S)[0] == "a"
    turns.refused("b", 10.0)
    turns.answered("b")
    assert turns.order(10.0)[0] == "b"


def test_gRPC_repeats_nothing_where_this_package_does() -> None:
    assert json.loads(service_config.balancing()) == {"loadBalancingConfig": [{"round_robin": {}}]}


def test_what_gRPC_repeats() -> None:
    policy = Policy(
        attempts_max=9, backoff=Backoff(0.05, 2.0), budget=Budget(ratio=0.1), idempotent=frozenset({"a.B/C"})
    )
    config = json.loads(service_config.repeating(policy, ["d.E"]))
    shed, lost = config["methodConfig"]
    assert shed["name"] == [{}]
    assert shed["retryPolicy"] == {
        "maxAttempts": 5,
        "initialBackoff": "0.050000s",
        "maxBackoff": "2.000000s",
        "backoffMultiplier": 2.0,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    assert lost["name"] == [{"service": "a.B", "method": "C"}, {"service": "d.E"}]
    assert lost["retryPolicy"]["retryableStatusCodes"] == ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]
    assert config["retryThrottling"] == {"maxTokens": 100, "tokenRatio": 0.1}
    assert "methodConfig" not in json.loads(service_config.repeating(Policy(attempts_max=1)))


def test_a_config_is_written_as_in_a_file() -> None:
    config = config_of(
        {
            "http_options": {"request_timeout_s": 5},
            "applications": [
                {
                    "name": "shop",
                    "route_prefix": "/",
                    "import_path": "shop:app",
                    "args": {"size": 3},
                    "runtime_env": {
                        "working_dir": "/srv/shop",
                        "env_vars": {"A": "1", "B": {"from_env": "TOKEN"}, "C": {"from_file": "/run/c"}},
                    },
                    "deployments": [{"name": "Shop", "num_replicas": 2, "user_config": {"x": [1]}}],
                }
            ],
        }
    )
    (application,) = config.applications
    assert config.http_options.request_timeout_s == 5
    assert json.loads(application.args_json) == {"size": 3}
    assert application.runtime_env.env_vars == {"A": "1"}
    assert application.runtime_env.env_vars_from_env == {"B": "TOKEN"}
    assert application.runtime_env.env_vars_from_file == {"C": "/run/c"}
    assert json.loads(application.deployments[0].user_config_json) == {"x": [1]}
    assert config_of(config) is config


@pytest.mark.parametrize(
    "config",
    [
        {"aplications": []},
        {"applications": "shop"},
        {"applications": ["shop"]},
        {"applications": [{"name": 3}]},
        {"applications": [{"name": "a", "deployments": ["x"]}]},
        {"applications": [{"name": "a", "runtime_env": {"env_vars": {"A": {"from_url": "x"}}}}]},
    ],
)
def test_what_is_no_config(config: Any) -> None:
    with pytest.raises(InvalidRequest):
        config_of(config)
    assert isinstance(config_of(pb.Config()), pb.Config)
