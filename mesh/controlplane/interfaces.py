"""Whether what a build says of gRPC services can be served: the descriptors themselves, and beside other applications.

Owns these checks: no word of a worker is trusted, for a schema that a gateway cannot load, or a route that two
applications claim, would harm others than its author. What was found of a schema is remembered by its bytes, so that
only its first look takes time. Never does I/O. Called by `builds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from mesh.controlplane.rollout import is_built
from mesh.model import Application, DeploymentSpec, Failure, Interface, Plan
from mesh.serving.options import shown
from mesh.transcode.collisions import Routes, collisions, routes_of, shadowed
from mesh.transcode.descriptor_set import SchemaError
from mesh.transcode.packed import SET_BYTES_MAX, unpacked
from mesh.transcode.schema import Schema

DESCRIPTORS_BYTES_MAX = 8 * 1024 * 1024
"""Compressed, of all applications together: half of what one message to a gateway can hold."""
_REMEMBERED_MAX = 512
_OWN_SERVICES = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)
"""What every gateway answers itself."""
_FREE_HINT = (
    "change its path, or the route_prefix of one of the two; what the other one gives up is free when that is ready"
)


@dataclass(frozen=True, slots=True)
class _Refused:
    message: str
    hint: str


def refusal(plan: Plan, others: Iterable[Application]) -> Failure | None:
    """Return why the gRPC services of a plan cannot be served, or None. `others` are all other applications."""
    served: dict[str, str] = {}
    own: Routes = {}
    if sum(map(_loaded_size, plan.deployments)) > SET_BYTES_MAX:
        text = f"the descriptors of its gRPC services have more than the {SET_BYTES_MAX} bytes allowed for all together"
        return Failure(text, "import_path", "serve fewer services")
    for spec in plan.deployments:
        if own_service := next(filter(_is_own, spec.interface.services), ""):
            text = f"the gRPC service {shown(own_service)} is the gateway's own: no call of it would come here"
            return Failure(text, "import_path", "leave it out; the gateway answers it for all that is deployed")
        routes = _routes(spec.interface, plan.config.route_prefix if spec.ingress else "")
        if isinstance(routes, _Refused):
            text = f"the gRPC services of {shown(spec.name)} cannot be served: {routes.message}"
            return Failure(text, "import_path", routes.hint or "mend its .proto files, then deploy again")
        for service in spec.interface.services:
            if (first := served.setdefault(service, spec.name)) != spec.name:
                text = f"the gRPC service {shown(service)} is in two deployments, {shown(first)} and {shown(spec.name)}"
                return Failure(text, "import_path", "leave it to one of the two")
        own = routes if spec.ingress else own
    in_force = {other.config.name: _in_force(other) for other in others}
    reasons = [
        reason
        for name, plans in in_force.items()
        for taken in map(_taken, plans)
        for reason in collisions(own, {name: taken})
    ]
    if reasons:
        return Failure("; ".join(dict.fromkeys(reasons)), "import_path", _FREE_HINT)
    if (failure := _shadow(plan.config.route_prefix, own, in_force)) is not None or not served:
        return failure
    size = _size(plan) + sum(max(map(_size, plans), default=0) for plans in in_force.values())
    if size > DESCRIPTORS_BYTES_MAX:
        text = f"the descriptors of all applications have {size} bytes compressed; {DESCRIPTORS_BYTES_MAX} are allowed"
        return Failure(text, "import_path", "delete an application, or serve fewer services")
    return None


def _is_own(service: str) -> bool:
    return service in _OWN_SERVICES or service.startswith("mesh.v1.")


def _shadow(prefix: str, own: Routes, in_force: Mapping[str, tuple[Plan, ...]]) -> Failure | None:
    """Return why the longest-prefix rule would keep requests from routes, of the plan or of the others; else None."""
    for name, plans in sorted(in_force.items()):
        for other in plans:
            theirs = other.config.route_prefix
            if not prefix or not theirs or len(theirs.rstrip("/")) == len(prefix.rstrip("/")):
                continue
            longer, hidden, loser = (
                (prefix, _taken(other), f"application {name!r}")
                if len(prefix) > len(theirs)
                else (theirs, own, "this application")
            )
            if routes := shadowed(hidden, longer):
                text = f"{'; '.join(route.text for route in routes)} of {loser} would never be reached"
                whose = "this application" if longer == prefix else f"application {name!r}"
                text += f": all below {shown(longer)} goes to {whose}"
                return Failure(text, "route_prefix", "choose a route_prefix that no route of the other one begins with")
    return None


def _in_force(application: Application) -> tuple[Plan, ...]:
    """Return the plans whose routes an application has or is to have.

    What leaves, or gives its route up with the apply that it waits for, keeps nothing from the others of that apply.
    """
    if application.deleting or application.leaving:
        return ()
    plans = []
    if application.plan is not None and is_built(application) and application.failure is None:
        plans.append(application.plan)
    if application.serving is not None and not application.awaits and application.serving not in plans:
        plans.append(application.serving)
    return tuple(plans)


def _taken(plan: Plan) -> Routes:
    for spec in plan.deployments:
        if spec.ingress:
            routes = _routes(spec.interface, plan.config.route_prefix)
            return {} if isinstance(routes, _Refused) else routes  # what cannot be served takes nothing
    return {}


def _size(plan: Plan) -> int:
    return sum(len(spec.interface.descriptor_set) for spec in plan.deployments)


def _loaded_size(spec: DeploymentSpec) -> int:
    try:
        return len(unpacked(spec.interface.descriptor_set)) if spec.interface.descriptor_set else 0
    except SchemaError:
        return 0  # it is refused for what it is


def _routes(interface: Interface, route_prefix: str) -> Routes | _Refused:
    if interface.services:
        return _looked_at(interface, route_prefix)
    if interface.descriptor_set:
        return _Refused("there are descriptors, but no services", "")
    return _Refused("there are none, and no HTTP handler", "") if interface.grpc_only else {}


@lru_cache(_REMEMBERED_MAX)
def _looked_at(interface: Interface, route_prefix: str) -> Routes | _Refused:
    """Load the schema and let it go again: only its routes are remembered."""
    if len(set(interface.services)) != len(interface.services):
        return _Refused("one of them stands twice", "")
    try:
        schema = Schema.load(unpacked(interface.descriptor_set), interface.services)
        return routes_of(schema.services.values(), route_prefix)
    except SchemaError as error:
        return _Refused(error.message, error.hint)
    except Exception as error:  # whatever else a hostile set may find in protobuf must not end the leader's loop
        return _Refused(f"the descriptor set cannot be loaded ({type(error).__name__})", "")
