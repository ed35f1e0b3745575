"""mesh: serve Python behind REST and gRPC with exact limits.

The public names. Importing this loads neither grpc nor a server; the names themselves are loaded when they are first
used, for this module runs before meshctl can see to Ctrl-C.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh.errors import BackPressureError, MeshError, RemoteError, RequestTimeout
    from mesh.serving.asgi import asgi, ingress
    from mesh.serving.batch import batch
    from mesh.serving.deployment import Application, Deployment, deployment
    from mesh.serving.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseStream, get_handle
    from mesh.serving.multiplexed import get_multiplexed_model_id, multiplexed
    from mesh.serving.sse import ServerSentEvent, sse

__all__ = [
    "Application",
    "BackPressureError",
    "Deployment",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseStream",
    "MeshError",
    "RemoteError",
    "RequestTimeout",
    "ServerSentEvent",
    "__version__",
    "asgi",
    "batch",
    "deployment",
    "get_handle",
    "get_multiplexed_model_id",
    "ingress",
    "multiplexed",
    "sse",
]

__version__ = "0.1.0"

_MODULES = {
    "Application": "mesh.serving.deployment",
    "BackPressureError": "mesh.errors",
    "Deployment": "mesh.serving.deployment",
    "DeploymentHandle": "mesh.serving.handle",
    "DeploymentResponse": "mesh.serving.handle",
    "DeploymentResponseStream": "mesh.serving.handle",
    "MeshError": "mesh.errors",
    "RemoteError": "mesh.errors",
    "RequestTimeout": "mesh.errors",
    "ServerSentEvent": "mesh.serving.sse",
    "asgi": "mesh.serving.asgi",
    "batch": "mesh.serving.batch",
    "deployment": "mesh.serving.deployment",
    "get_handle": "mesh.serving.handle",
    "get_multiplexed_model_id": "mesh.serving.multiplexed",
    "ingress": "mesh.serving.asgi",
    "multiplexed": "mesh.serving.multiplexed",
    "sse": "mesh.serving.sse",
}


def __getattr__(name: str) -> object:
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value
