"""Which deployment serves which gRPC service, as the last snapshot says.

Owns the choice among applications that serve the same service. Pure. Made by `pipeline` from each snapshot; used by
`grpc_services`, reflection and health.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.errors import InvalidConfig, NotFound, Problem
from mesh.transcode.schema import MethodSchema, Schema

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Served(Generic[_R]):
    """The services of one deployment."""

    application: str
    schema: Schema
    route: _R


class ServiceTable(Generic[_R]):
    """Finds the route of a gRPC method."""

    def __init__(self, served: Iterable[Served[_R]] = ()) -> None:
        self.served = tuple(served)
        by_service: dict[str, dict[str, Served[_R]]] = {}
        for each in self.served:
            for name in each.schema.services:
                by_service.setdefault(name, {})[each.application] = each
        self._by_service: Mapping[str, Mapping[str, Served[_R]]] = by_service
        self._streaming: dict[str, bool] = {}
        self._idempotent: dict[str, bool] = {}
        for each in self.served:
            for service in each.schema.services.values():
                for method in service.methods.values():
                    streams = method.client_streaming or method.server_streaming
                    path = method.rpc_path
                    self._streaming[path] = streams or self._streaming.get(path, False)
                    self._idempotent[path] = method.idempotent and self._idempotent.get(path, True)

    def names(self) -> tuple[str, ...]:
        """Return the full names of all services."""
        return tuple(sorted(self._by_service))

    def streaming(self, path: str) -> bool | None:
        """Return whether "/package.Service/Method" takes or gives a stream; None: nobody serves it."""
        return self._streaming.get(path)

    def idempotent(self, path: str) -> bool:
        """Return whether a method may run twice, whoever serves it."""
        return self._idempotent.get(path, False)

    def applications(self, service: str) -> tuple[str, ...]:
        """Return the applications that serve a service."""
        return tuple(self._by_service.get(service, ()))

    def method(self, path: str, application: str | None) -> MethodSchema:
        """Return the schema of a method. Raises as `find`."""
        found = self.find(path, application).schema.method(path[1:])
        if found is None:
            raise NotFound(f"there is no method {path[:200]!r}")
        return found

    def route(self, path: str, application: str | None) -> _R:
        """Return the route of a method. Raises as `find`."""
        return self.find(path, application).route

    def find(self, path: str, application: str | None) -> Served[_R]:
        """Return who serves "/package.Service/Method".

        Raises NotFound, or InvalidConfig when several applications serve it and `application` names none.
        """
        service = path[1:].rpartition("/")[0]
        by_application = self._by_service.get(service, {})
        if application is not None:
            if (found := by_application.get(application)) is not None:
                return found
            raise NotFound(f"application {application[:100]!r} does not serve {service[:200]!r}")
        if len(by_application) == 1:
            return next(iter(by_application.values()))
        if not by_application:
            raise NotFound(f"no application serves {service[:200]!r}", hint="reflection lists the services")
        several = ", ".join(sorted(by_application))
        text = f"several applications serve {service!r}: {several}"
        raise InvalidConfig((Problem("application", text, "name one of them in the metadata 'application'"),))
