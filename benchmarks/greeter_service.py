"""The servicer of the gRPC benchmarks as a deployment; `benchmarks.greeter` puts a copy of this file beside it."""

from greeter_servicer import Greeter  # type: ignore[import-not-found]

import mesh

app = mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)(Greeter).bind()
