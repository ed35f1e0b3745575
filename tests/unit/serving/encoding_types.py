"""Classes whose instances travel, for the tests of `encoding`."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict
from typing import Any, NamedTuple

import pydantic


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    inner: Point
    rest: tuple[Any, ...] = ()


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Model(pydantic.BaseModel):
    name: str = pydantic.Field(alias="Name")
    inner: list[Model] = []
    _cache: dict[str, int] = pydantic.PrivateAttr(default_factory=dict)


class Open(pydantic.BaseModel, extra="allow"):
    a: int = 1


class NoData:
    """Any other class."""


class Ordered(OrderedDict[str, int]):
    pass
