"""Conversion of small messages between JSON and protobuf, beside google.protobuf.json_format, in µs.

Both ways are whole: from the text of a body to the bytes that travel, by the binding of an HTTP rule as the gateway
uses it, and back. json_format does the same work: its own parsing or printing, and the wire format.
Writes benchmarks/results/conversion.json. Run: python -m benchmarks.conversion
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from benchmarks import greeter
from benchmarks.report import write
from mesh.transcode.binding import Binding
from mesh.transcode.json_codec import Codecs
from mesh.transcode.rules import HttpRule
from mesh.transcode.schema import MethodSchema, Schema

ROUNDS = 15
CALLS = 4000
GOAL_US = 15.0
BODIES = {
    "HelloRequest": b'{"name": "world", "times": 3, "formal": true, "titles": ["Dr", "Prof"]}',
    "HelloReply": b'{"message": "Hello world!", "number": "3", "formal": true}',
    "Profile": b'{"id": "9007199254740993", "name": "Ada Lovelace", "score": 99.25, "visits": 1815, "active": true, '
    b'"rank": "RANK_GOLD", "token": "AAECAwQFBgc=", "address": {"street": "12 St James Square", "city": "London"}}',
}


def times_us(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each in µs of this process's CPU; rounds of all are interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.process_time()
            for _ in range(CALLS):
                work()
            taken[name].append((time.process_time() - started) / CALLS * 1e6)
    return {name: round(statistics.median(each), 2) for name, each in taken.items()}


def both_ways(schema: Schema, codecs: Codecs, name: str, body: bytes) -> dict[str, float]:
    """Return the times for one message type, which is request and answer here."""
    descriptor = schema.pool.FindMessageTypeByName(f"greeter.v1.{name}")
    declared = schema.method(f"{greeter.NAME}/SayHello")
    assert declared is not None
    method = MethodSchema(
        **{field: getattr(declared, field) for field in declared.__slots__}
        | {"input": descriptor, "output": descriptor}
    )
    binding = Binding(HttpRule("POST", "/", "*", ""), method, (), codecs)
    message_type: type[Message] = codecs.get(descriptor).new
    wire = binding.request((), b"", body, "application/json").SerializeToString()
    assert message_type.FromString(wire) == json_format.Parse(body, message_type())
    works: dict[str, Callable[[], Any]] = {
        "json_to_proto_us": lambda: binding.request((), b"", body, "application/json").SerializeToString(),
        "proto_to_json_us": lambda: binding.response(message_type.FromString(wire)),
        "json_to_proto_json_format_us": lambda: json_format.Parse(body, message_type()).SerializeToString(),
        "proto_to_json_json_format_us": lambda: json_format.MessageToJson(
            message_type.FromString(wire), indent=None, descriptor_pool=schema.pool
        ).encode(),
    }
    return {"json_bytes": len(body), "wire_bytes": len(wire), **times_us(works)}


def main() -> None:
    """Measure, print and write down."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as place:
        directory = greeter.generate(Path(place))
        schema = Schema.load((directory / greeter.DESCRIPTOR_SET).read_bytes())
    codecs = Codecs(schema.pool)
    messages = {name: both_ways(schema, codecs, name, body) for name, body in BODIES.items()}
    slowest = max(each[way] for each in messages.values() for way in ("json_to_proto_us", "proto_to_json_us"))
    results = {
        "what": f"CPU µs for one message, medians of {ROUNDS} rounds of {CALLS}",
        **messages,
        "slowest_us": slowest,
        "goal_us": GOAL_US,
    }
    write("conversion", results)


if __name__ == "__main__":
    main()
