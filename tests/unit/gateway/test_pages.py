"""mesh's own pages: what is there, how it may be asked for, and what is said of the rest."""

from __future__ import annotations

import json

import pytest

from mesh.clock import Clock
from mesh.errors import NotFound
from mesh.gateway.answer import MethodNotAllowed
from mesh.gateway.pages import check, page
from mesh.gateway.pipeline import Pipeline
from mesh.settings import GatewaySettings
from tests.support.gateways import Routed, snapshot


async def test_health_follows_the_pipeline() -> None:
    pipeline = Pipeline(GatewaySettings(), Clock())
    status, body = page(pipeline, "/-/healthz")
    assert status == 503 and "snapshot" in json.loads(body)["status"]
    pipeline.apply(snapshot(1, [Routed(prefix="/one")]))
    assert page(pipeline, "/-/healthz") == (200, b'{"status": "ok"}\n')
    assert page(pipeline, "/-/routes") == (200, b'{"/one": "default"}\n')
    await pipeline.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_pages_are_there_to_be_read(method: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        check(method, "/-/routes")
    assert caught.value.allow == "GET, HEAD"
    with pytest.raises(NotFound, match="/-/other"):
        check(method, "/-/other")
