"""That a gateway lets the schemas go that no snapshot has any more, once their last call has ended."""

from __future__ import annotations

import gc
import weakref

from mesh.clock import SYSTEM
from mesh.gateway.pipeline import Pipeline
from mesh.settings import GatewaySettings
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from tests.support.interfaces import SERVICE, interface

PATH = f"/{SERVICE}/Buy"


def snapshot(number: int, **fillers: str) -> pb.Snapshot:
    """A snapshot of applications, each with a schema whose request is named so."""
    message = pb.Snapshot(generation=deployment_pb2.Generation(epoch=1, number=number))
    for name, filler in fillers.items():
        application = message.applications.add(name=name, route_prefix=f"/{name}", ingress="Shop")
        found = interface("/orders/{text}", filler=filler)
        described = deployment_pb2.Interface(
            grpc_only=True, services=found.services, descriptor_set=found.descriptor_set
        )
        application.deployments.add(name="Shop", max_ongoing_requests=1, interface=described)
    return message


async def test_an_old_pool_goes_with_its_last_call() -> None:
    pipeline = Pipeline(GatewaySettings(), SYSTEM)
    assert pipeline.apply(snapshot(1, a="V1", b="V1"))
    schema, again = pipeline.schemas()
    assert schema is again, "what is equal is loaded once"
    request = schema.message_class(pipeline.services.method(PATH, "a").input)(text="running")
    schema_gone, class_gone = weakref.ref(schema), weakref.ref(type(request))
    del schema, again

    assert pipeline.apply(snapshot(2, a="V2", b="V1"))
    assert pipeline.services.method(PATH, "a").input.name == "OrderV2"
    assert pipeline.services.method(PATH, "b").input.name == "OrderV1"

    assert pipeline.apply(snapshot(3, a="V2", b="V2"))
    gc.collect()
    assert schema_gone() is None
    assert class_gone() is not None and request == type(request).FromString(request.SerializeToString())
    del request
    gc.collect()
    assert class_gone() is None, "its class has a descriptor, and that the pool"

    assert pipeline.apply(snapshot(4))
    assert pipeline.schemas() == []
    await pipeline.close()
