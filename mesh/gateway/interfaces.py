"""The schemas and REST routes of what is deployed, kept from one snapshot to the next.

Owns when a schema is loaded and when it is dropped: a descriptor pool cannot forget, so each schema has one of its
own, which goes when no snapshot has it and its last call has ended. Called by `pipeline`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mesh.errors import MeshError
from mesh.gateway.rest_table import RestTable
from mesh.transcode.json_codec import JsonOptions
from mesh.transcode.packed import unpacked
from mesh.transcode.schema import Schema
from mesh.v1 import discovery_service_pb2 as pb

_Key = tuple[bytes, tuple[str, ...]]
_TableKey = tuple[_Key, str, JsonOptions]

log = logging.getLogger("mesh.gateway")


class Interfaces:
    """What deployments answer to, beside plain HTTP."""

    def __init__(self) -> None:
        self._schemas: dict[_Key, Schema] = {}
        self._tables: dict[_TableKey, RestTable] = {}

    def keep(self, applications: Iterable[pb.RoutedApplication]) -> None:
        """Load what these applications need and is not there yet; drop what they do not need."""
        schemas: dict[_Key, Schema] = {}
        tables: dict[_TableKey, RestTable] = {}
        for application in applications:
            for deployment in application.deployments:
                key = _key(deployment)
                if not key[0]:
                    continue
                try:
                    schema = schemas[key] = (
                        schemas.get(key) or self._schemas.get(key) or Schema.load(unpacked(key[0]), key[1])
                    )
                    if deployment.name == application.ingress and application.route_prefix:
                        at = (key, application.route_prefix.rstrip("/"), _options(deployment))
                        tables[at] = self._tables.get(at) or RestTable(schema, at[1], at[2])
                except MeshError as error:  # the control plane lets none pass
                    fields = {"application": application.name, "deployment": deployment.name}
                    log.error("descriptors refused: %s", error.message, extra=fields)
        self._schemas, self._tables = schemas, tables

    def schema(self, deployment: pb.RoutedDeployment) -> Schema | None:
        """Return the schema of a deployment that has services."""
        return self._schemas.get(_key(deployment))

    def table(self, deployment: pb.RoutedDeployment, prefix: str) -> RestTable | None:
        """Return the REST routes of an ingress deployment that has services."""
        return self._tables.get((_key(deployment), prefix, _options(deployment)))


def _key(deployment: pb.RoutedDeployment) -> _Key:
    return deployment.interface.descriptor_set, tuple(deployment.interface.services)


def _options(deployment: pb.RoutedDeployment) -> JsonOptions:
    json = deployment.json
    return JsonOptions(
        emit_defaults=json.emit_defaults, proto_names=json.proto_names, enums_as_numbers=json.enums_as_numbers
    )
