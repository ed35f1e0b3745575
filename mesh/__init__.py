"""mesh: serve Python behind REST and gRPC with exact limits.

The public names. Importing this loads neither grpc nor a server.
"""

from mesh.errors import MeshError
from mesh.serving.deployment import Application, Deployment, deployment

__all__ = ["Application", "Deployment", "MeshError", "__version__", "deployment"]

__version__ = "0.1.0"
