"""mesh: serve Python behind REST and gRPC with exact limits.

The public names. Importing this loads neither grpc nor a server; the names themselves are loaded when they are first
used, for this module runs before meshctl can see to Ctrl-C.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh.errors import MeshError
    from mesh.serving.deployment import Application, Deployment, deployment

__all__ = ["Application", "Deployment", "MeshError", "__version__", "deployment"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mesh.errors import MeshError
    from mesh.serving.deployment import Application, Deployment, deployment

    globals().update(Application=Application, Deployment=Deployment, MeshError=MeshError, deployment=deployment)
    return globals()[name]
