"""What a servicer class serves: its services, their methods, and the descriptors that describe them.

Owns the way from a user's class to its protobuf services. Generated code has no link from `XServicer` to a
descriptor; but its module has `add_XServicer_to_server`, which tells a server the full name of the service and its
handlers. So that function is called with a server that only listens. Never does I/O and never makes an instance.
Called by the build and the replica.

Comments: generated code keeps those of services and methods (in docstrings). Those of messages, fields and enums are
lost in it; they come along if a descriptor set with source info is given, such as a file beside the stubs.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from mesh.errors import UserCodeError
from mesh.serving.batch import BatchedCall
from mesh.transcode import comments
from mesh.transcode.bundled import OWN

DESCRIPTOR_SET_FILE = "descriptors.binpb"
"""A file of this name beside the stubs, or above them where their package begins, brings the comments."""

_NO_COMMENT = "Missing associated documentation comment in .proto file."
_AGAIN = "generate the messages (*_pb2.py) and the stubs (*_pb2_grpc.py) again, from the same .proto file"

Register = Callable[[Any, Any], None]
"""Generated `add_XServicer_to_server(servicer, server)`."""


@dataclass(frozen=True, slots=True)
class CollectedMethod:
    """One method of a service as the class has it. An instance may still have another (see `handlers`)."""

    name: str
    client_streaming: bool
    server_streaming: bool
    implemented: bool
    """False: what was generated is still there; it answers UNIMPLEMENTED."""
    is_async: bool
    """Written with `async def`: runs on the event loop. False: runs in a thread."""


@dataclass(frozen=True, slots=True)
class CollectedService:
    """One service of a class. Methods are in the order of their .proto file."""

    full_name: str
    methods: tuple[CollectedMethod, ...]
    register: Register


@dataclass(frozen=True, slots=True)
class Collected:
    """What a class serves over gRPC."""

    services: tuple[CollectedService, ...]
    """By full name."""
    descriptor_set: bytes
    """A serialized FileDescriptorSet: all files that the services need, each after those it imports."""
    serves_http: bool
    """The class has a `__call__` too: it is an HTTP handler as well."""


def collect(target: object, descriptor_sets: Iterable[bytes] = ()) -> Collected | None:
    """Return what `target` serves over gRPC, or None if it is no class derived from a generated `XServicer`.

    `descriptor_sets` are serialized FileDescriptorSets with source info (see `descriptor_set_paths`): only comments
    are taken from them. Raises UserCodeError if the class derives from a client class instead, or if generated files
    do not fit each other.
    """
    if not inspect.isclass(target):
        return None
    found = dict[str, tuple[CollectedService, type, ServiceDescriptor]]()
    for base, register in _servicers(target):
        service, descriptor = _service(target, base, register)
        found.setdefault(service.full_name, (service, base, descriptor))
    if not found:
        _refuse_clients(target)
        return None
    ordered = [found[name] for name in sorted(found)]
    _refuse_mixed(target, [service for service, _, _ in ordered])
    told = _comments(descriptor_sets)
    for service, base, _ in ordered:
        told = _docstrings(service, base) | told
    return Collected(
        services=tuple(service for service, _, _ in ordered),
        descriptor_set=_descriptor_set([descriptor.file for _, _, descriptor in ordered], told),
        serves_http=any("__call__" in vars(base) for base in target.__mro__),
    )


def descriptor_set_paths(target: type) -> tuple[str, ...]:
    """Return where a descriptor set may lie beside the stubs of `target`: nearest directory first, one of each.

    The caller reads those that exist and gives their bytes to `collect`.
    """
    paths = dict[str, None]()
    for base, _ in _servicers(target):
        module = sys.modules.get(base.__module__)
        if file := getattr(module, "__file__", None):
            for directory in list(PurePath(file).parents)[: base.__module__.count(".") + 1]:
                paths[str(directory / DESCRIPTOR_SET_FILE)] = None
    return tuple(paths)


def handlers(servicer: object, service: CollectedService) -> Mapping[str, Any]:
    """Return the `grpc.RpcMethodHandler` of each method of `service`, bound to the instance `servicer`, by name.

    Raises UserCodeError if the instance has not all methods.
    """
    _, found = _registered(servicer, service.register, [method.name for method in service.methods])
    return found


def behavior(handler: Any) -> Callable[..., Any]:
    """Return the user's method inside a `grpc.RpcMethodHandler`."""
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    method: Callable[..., Any] = getattr(handler, f"{request}_{response}")
    return method


def is_async(method: Callable[..., Any]) -> bool:
    """Whether `method` runs on the event loop: the rule of grpc.aio, which looks at nothing that it wraps.

    What `@mesh.batch` made of it waits there too, whatever it is.
    """
    return isinstance(method, BatchedCall) or inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


class _Listener:
    """A server that only notes what it is told. Newer stubs tell the handlers by name, all tell a generic handler."""

    def __init__(self) -> None:
        self.generic: list[Any] = []
        self.registered: dict[str, Mapping[str, Any]] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        self.generic += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        self.registered[service_name] = method_handlers


def _servicers(target: type) -> Iterable[tuple[type, Register]]:
    """Yield the generated servicers among the bases of `target`, each with its function that registers it."""
    for base in target.__mro__:
        register = _of_module(base).get(f"add_{base.__name__}_to_server")
        # A user's module may import the function for a base of the same name: it belongs to where it was made.
        if inspect.isfunction(register) and register.__module__ == base.__module__:
            yield base, register


def _of_module(base: type) -> Mapping[str, Any]:
    """Return the names of the module that made `base`, also when the module was loaded again since."""
    for value in vars(base).values():
        if inspect.isfunction(value) and value.__module__ == base.__module__:
            return value.__globals__
    return vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}


def _service(target: type, base: type, register: Register) -> tuple[CollectedService, ServiceDescriptor]:
    name, _ = _registered(target, register, ())
    if base.__module__.endswith("_pb2_grpc"):
        # Stubs do not import the messages of their own file when its methods use none of them.
        with contextlib.suppress(ImportError):
            importlib.import_module(base.__module__.removesuffix("_grpc"))
    try:
        descriptor: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        text = f"{base.__module__} has the service {name!r}, but no imported *_pb2 module describes it"
        raise UserCodeError(text, hint=_AGAIN) from None
    _, found = _registered(target, register, [method.name for method in descriptor.methods])
    methods = []
    for method in descriptor.methods:
        handler = found[method.name]
        kind = (bool(handler.request_streaming), bool(handler.response_streaming))
        if kind != (method.client_streaming, method.server_streaming):
            text = f"{base.__module__} and its *_pb2 module differ on what {name}/{method.name} streams"
            raise UserCodeError(text, hint=_AGAIN)
        written = behavior(handler)
        own = written is not getattr(base, method.name, None)
        methods.append(CollectedMethod(method.name, *kind, implemented=own, is_async=is_async(written)))
    return CollectedService(name, tuple(methods), register), descriptor


def _registered(servicer: object, register: Register, names: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Return the service's full name and the handlers of the methods `names`."""
    listener = _Listener()
    where = f"{register.__module__}.{register.__name__}"
    try:
        register(servicer, listener)
        generic = listener.generic[0]
        service = generic.service_name()
    except Exception as error:
        text = f"{where} failed for {_shown(servicer)}: {type(error).__name__}: {error}"
        raise UserCodeError(text, hint="each method of the service must be a method of the class") from None
    by_name = listener.registered.get(service, {})
    found = {}
    for name in names:
        details = SimpleNamespace(method=f"/{service}/{name}", invocation_metadata=())
        if (handler := by_name.get(name) or generic.service(details)) is None:
            raise UserCodeError(f"{where} does not know the method {service}/{name}", hint=_AGAIN)
        found[name] = handler
    if extra := sorted(set(by_name) - set(found)) if found else []:
        raise UserCodeError(f"no *_pb2 module describes the method {service}/{extra[0]}", hint=_AGAIN)
    return service, found


def _refuse_clients(target: type) -> None:
    """Say so if `target` derives from what the same module generated for clients."""
    for base in target.__mro__:
        servicer = f"{base.__name__.removesuffix('Stub')}Servicer"
        module = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        if f"add_{servicer}_to_server" in module and servicer in module and module.get(base.__name__) is base:
            text = f"{target.__name__} derives from {base.__module__}.{base.__name__}, which is for clients"
            raise UserCodeError(text, hint=f"derive it from {servicer}")


def _refuse_mixed(target: type, services: Iterable[CollectedService]) -> None:
    """One Python method cannot be of two kinds of call."""
    seen = dict[str, tuple[str, CollectedMethod]]()
    for service in services:
        for method in service.methods:
            other, same = seen.setdefault(method.name, (service.full_name, method))
            kind = (method.client_streaming, method.server_streaming)
            if (same.client_streaming, same.server_streaming) != kind:
                both = f"{other} and {service.full_name}, which stream differently"
                text = f"{target.__name__}.{method.name} would serve {both}"
                raise UserCodeError(text, hint="serve the two services from two deployments")


def _docstrings(service: CollectedService, base: type) -> dict[str, str]:
    """Return the comments of a service and its methods that its generated class keeps."""
    documented: dict[str, object] = {service.full_name: base}
    documented |= {f"{service.full_name}.{m.name}": getattr(base, m.name, None) for m in service.methods}
    texts = {name: inspect.cleandoc(getattr(thing, "__doc__", None) or "") for name, thing in documented.items()}
    return {name: text for name, text in texts.items() if text and text != _NO_COMMENT}


def _comments(descriptor_sets: Iterable[bytes]) -> dict[str, str]:
    told: dict[str, str] = {}
    for data in descriptor_sets:
        try:
            for file in FileDescriptorSet.FromString(data).file:
                told = comments.read(file) | told
        except DecodeError:
            text = f"a {DESCRIPTOR_SET_FILE} beside the stubs is no descriptor set"
            raise UserCodeError(text, hint="generate it again, or delete it: only comments are read from it") from None
    return told


def _descriptor_set(files: Iterable[FileDescriptor], told: Mapping[str, str]) -> bytes:
    """Return `files` and all they import, each once and after its imports."""
    ordered = dict[str, FileDescriptor]()
    pending = [(file, False) for file in files][::-1]
    while pending:
        file, imported = pending.pop()
        if imported:
            ordered.setdefault(file.name, file)
        elif file.name not in ordered:
            pending += [(file, True), *((each, False) for each in reversed(file.dependencies))]
    result = FileDescriptorSet()
    for file in ordered.values():
        proto = FileDescriptorProto.FromString(file.serialized_pb)
        comments.write(proto, told if file.name not in OWN else {})
        result.file.append(proto)
    return result.SerializeToString(deterministic=True)


def _shown(servicer: object) -> str:
    return servicer.__name__ if inspect.isclass(servicer) else type(servicer).__name__
