"""Makes the classes of generated modules, like google.protobuf.internal.builder, which generated modules call.

That one also enters them into the default symbol database, where with protobuf's implementation in Python a name exists
once in a process. Nothing looks for them there.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import message, reflection
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.internal.builder import BuildMessageAndEnumDescriptors

__all__ = ["BuildMessageAndEnumDescriptors", "BuildTopDescriptorsAndMessages"]


def BuildTopDescriptorsAndMessages(file: Any, module_name: str, module: dict[str, Any]) -> None:
    """Put the enums, services and message classes of a file into its module."""
    for name, enum in file.enum_types_by_name.items():
        module[f"_{name.upper()}"] = enum
        module[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    for name, service in file.services_by_name.items():
        module[f"_{name.upper()}"] = service
    for name, described in file.message_types_by_name.items():
        module[name] = _message(described, module_name, "")


def _message(described: Any, module_name: str, within: str) -> Any:
    name = f"{within}{described.name}"
    members = {key: _message(each, module_name, f"{name}.") for key, each in described.nested_types_by_name.items()}
    members |= {"DESCRIPTOR": described, "__module__": module_name, "__qualname__": name}
    kind: Any = reflection.GeneratedProtocolMessageType
    return kind(described.name, (message.Message,), members)
