"""The service config of gRPC channels: how they balance, and what gRPC itself repeats.

Owns its form (https://github.com/grpc/grpc/blob/master/doc/service_config.md). Pure. Called by `connecting`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mesh_client.policy import Policy

_ATTEMPTS_MAX = 5
"""gRPC takes no more."""
_TOKENS_MAX = 100


def balancing() -> str:
    """Return the config of a channel whose calls this package repeats: round robin, and nothing that gRPC repeats."""
    return json.dumps(_balanced())


def repeating(policy: Policy, idempotent: Iterable[str] = ()) -> str:
    """Return the config of a channel whose calls gRPC itself repeats, streams as well, by what `policy` says.

    RESOURCE_EXHAUSTED is repeated of all methods: what mesh sheds never ran. gRPC cannot tell it from what an
    application answers itself, or a deployment further down; where those matter, this is not for methods that must
    not run twice. UNAVAILABLE may have run: it is repeated of those in `idempotent`, as "package.Service/Method" or
    "package.Service". Repeats stop while too many calls fail (`retryThrottling`). gRPC knows no end-to-end pause:
    each call's own deadline bounds all.
    """
    attempts = min(_ATTEMPTS_MAX, policy.attempts_max)
    config = _balanced()
    if attempts < 2:
        return json.dumps(config)
    methods: list[dict[str, Any]] = [{"name": [{}], "retryPolicy": _retries(policy, attempts, "RESOURCE_EXHAUSTED")}]
    if names := [_name(path) for path in sorted({*idempotent, *policy.idempotent})]:
        retries = _retries(policy, attempts, "RESOURCE_EXHAUSTED", "UNAVAILABLE")
        methods.append({"name": names, "retryPolicy": retries})
    ratio = round(policy.budget.ratio, 3) or 0.001
    config |= {"methodConfig": methods, "retryThrottling": {"maxTokens": _TOKENS_MAX, "tokenRatio": ratio}}
    return json.dumps(config)


def _balanced() -> dict[str, Any]:
    return {"loadBalancingConfig": [{"round_robin": {}}]}


def _retries(policy: Policy, attempts: int, *codes: str) -> dict[str, Any]:
    return {
        "maxAttempts": attempts,
        "initialBackoff": f"{policy.backoff.initial_s:.6f}s",
        "maxBackoff": f"{policy.backoff.max_s:.6f}s",
        "backoffMultiplier": policy.backoff.multiplier,
        "retryableStatusCodes": list(codes),
    }


def _name(path: str) -> dict[str, str]:
    service, _, method = path.strip("/").partition("/")
    return {"service": service, "method": method} if method else {"service": service}
