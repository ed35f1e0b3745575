"""mesh: serve Python behind REST and gRPC with exact limits.

The public names. Importing this loads neither grpc nor a server; the names themselves are loaded when they are first
used, for this module runs before meshctl can see to Ctrl-C.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh.errors import MeshError
    from mesh.serving.asgi import asgi, ingress
    from mesh.serving.deployment import Application, Deployment, deployment
    from mesh.serving.sse import ServerSentEvent, sse

__all__ = [
    "Application",
    "Deployment",
    "MeshError",
    "ServerSentEvent",
    "__version__",
    "asgi",
    "deployment",
    "ingress",
    "sse",
]

__version__ = "0.1.0"

_MODULES = {
    "Application": "mesh.serving.deployment",
    "Deployment": "mesh.serving.deployment",
    "MeshError": "mesh.errors",
    "ServerSentEvent": "mesh.serving.sse",
    "asgi": "mesh.serving.asgi",
    "deployment": "mesh.serving.deployment",
    "ingress": "mesh.serving.asgi",
    "sse": "mesh.serving.sse",
}


def __getattr__(name: str) -> object:
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value
