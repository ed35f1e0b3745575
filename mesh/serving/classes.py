"""Which classes' instances travel between deployments, and how these are taken apart and made again.

Owns the rule that a message never decides what is imported or run: a class is looked up by its name among those that
are loaded here, and an instance is made without its constructor, from exactly the fields that it has. Pure. Called by
`encoding`.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from typing import Any

from mesh.errors import DecodingFailed

DATACLASS, NAMED_TUPLE, ENUM, PYDANTIC = "dataclass", "named tuple", "enum", "pydantic model"
_NAME_CHARS_MAX = 500


def module_of(name: str) -> Any:
    """Return a module if it is loaded already, else None."""
    return sys.modules.get(name)


def kind_of(cls: type) -> str | None:
    """Return what a class is, if its instances travel."""
    if issubclass(cls, enum.Enum):
        return ENUM
    if "__dataclass_fields__" in vars(cls) or hasattr(cls, "__dataclass_fields__"):
        return DATACLASS
    if issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple):
        return NAMED_TUPLE
    pydantic = module_of("pydantic")
    if pydantic is not None and issubclass(cls, pydantic.BaseModel):
        return PYDANTIC
    return None


def known(cls: type) -> tuple[str, str]:
    """Return the module and the name by which the other side finds a class. Raises TypeError if it cannot."""
    module, name = cls.__module__, cls.__qualname__
    if module == "__main__":
        raise TypeError(f"class {name} is defined in the script that runs, where no other process finds it")
    try:
        found = loaded_class(module, name)
    except DecodingFailed:
        found = None
    if found is not cls:
        raise TypeError(f"class {module}.{name} is not found by that name; define it at the top of a module")
    return module, name


def loaded_class(module: str, name: str) -> Any:
    """Return the class of that name. Loads nothing. Raises DecodingFailed if there is none here."""
    if len(module) + len(name) > _NAME_CHARS_MAX:
        raise DecodingFailed("it names a class by no name")
    found: Any = module_of(module)  # whatever else than text they are is no key there
    for part in name.split("."):
        # Not getattr: a module's own __getattr__ may import.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
        hint = "both sides must have imported the module that defines it"
        raise DecodingFailed(f"class {module}.{name} is not loaded here", hint=hint)
    return found


def fields_of(kind: str, value: Any) -> dict[str, Any]:
    """Return what an instance is made of, by name."""
    if kind == DATACLASS:
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if kind == NAMED_TUPLE:
        return dict(zip(value._fields, value, strict=True))
    state = value.__getstate__()
    extra = state.get("__pydantic_extra__") or {}
    # Fields that were left to their defaults arrive as such.
    return {"": sorted(value.model_fields_set), **state["__dict__"], **extra}


def made(cls: type, fields: Any) -> Any:
    """Return the instance with these fields. Raises DecodingFailed if the class here has others."""
    if not isinstance(fields, dict):
        raise DecodingFailed("an object came without fields")
    kind = kind_of(cls)
    if kind == DATACLASS:
        return _dataclass(cls, fields)
    if kind == NAMED_TUPLE:
        names: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
        _check(cls, fields.keys(), frozenset(names), frozenset(names))
        return tuple.__new__(cls, [fields[name] for name in names])
    if kind == PYDANTIC:
        return _model(cls, fields)
    raise DecodingFailed(f"{cls.__module__}.{cls.__qualname__} is no dataclass and no pydantic model here")


def message_class(name: str) -> Any:
    """Return the class of a protobuf message whose file is loaded. Raises DecodingFailed."""
    pool, factory = module_of("google.protobuf.descriptor_pool"), module_of("google.protobuf.message_factory")
    if pool is None or factory is None or not isinstance(name, str):
        raise DecodingFailed("a protobuf message came, and no *_pb2 module is loaded here")
    try:
        return factory.GetMessageClass(pool.Default().FindMessageTypeByName(name))
    except KeyError:
        hint = "both sides must have imported the *_pb2 module that has it"
        raise DecodingFailed(f"protobuf message {name[:200]!r} is not loaded here", hint=hint) from None


def _dataclass(cls: Any, fields: dict[str, Any]) -> Any:
    declared = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    optional = {f.name for f in declared if f.default is not missing or f.default_factory is not missing}
    names = frozenset(f.name for f in declared)
    _check(cls, fields.keys(), names, names - optional)
    instance = object.__new__(cls)
    for field in declared:
        if field.name in fields:
            value = fields[field.name]
        else:  # the other side runs another version
            value = field.default if field.default is not missing else field.default_factory()  # type: ignore[operator]
        object.__setattr__(instance, field.name, value)
    return instance


def _model(cls: Any, fields: dict[str, Any]) -> Any:
    given = fields.pop("", [])
    names = frozenset(cls.model_fields)
    allows = cls.model_config.get("extra") == "allow"
    extra = {name: fields.pop(name) for name in fields.keys() - names} if allows else {}
    required = frozenset(name for name, field in cls.model_fields.items() if field.is_required())
    _check(cls, fields.keys(), names, required)
    for name in names - fields.keys():  # the other side runs another version
        fields[name] = cls.model_fields[name].get_default(call_default_factory=True)
    instance = cls.__new__(cls)
    instance.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": {name for name in given if name in names or name in extra},
            "__pydantic_extra__": extra if allows else None,
            "__pydantic_private__": None,
        }
    )
    if cls.__pydantic_post_init__:
        instance.model_post_init(None)
    return instance


def _check(cls: type, given: Any, names: frozenset[str], required: frozenset[str]) -> None:
    if not required <= given <= names:
        differing = sorted(str(name)[:60] for name in (required - given) | (given - names))
        what = f"{cls.__module__}.{cls.__qualname__} has other fields here"
        raise DecodingFailed(f"{what}: {', '.join(differing[:10])}", hint="deploy both sides with the same code")
