"""The .proto files that come with protobuf and googleapis, for schemas that import them.

Owns which files are at hand and which of them always are ours, whatever a schema brings: their messages have a JSON
form or a meaning of their own, and the code that gives it to them counts on their fields. Never does I/O. Called by
`descriptor_set`.
"""

from __future__ import annotations

from google.api import (
    annotations_pb2,
    client_pb2,
    field_behavior_pb2,
    field_info_pb2,
    http_pb2,
    httpbody_pb2,
    launch_stage_pb2,
    resource_pb2,
    routing_pb2,
    visibility_pb2,
)
from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import FileDescriptor
from google.rpc import code_pb2, error_details_pb2, status_pb2
from google.type import (  # type: ignore[import-untyped]
    calendar_period_pb2,
    color_pb2,
    date_pb2,
    datetime_pb2,
    dayofweek_pb2,
    decimal_pb2,
    expr_pb2,
    fraction_pb2,
    interval_pb2,
    latlng_pb2,
    localized_text_pb2,
    money_pb2,
    month_pb2,
    phone_number_pb2,
    postal_address_pb2,
    quaternion_pb2,
    timeofday_pb2,
)

_OWN = (
    *(any_pb2, api_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, source_context_pb2),
    *(struct_pb2, timestamp_pb2, type_pb2, wrappers_pb2),
    *(annotations_pb2, http_pb2, httpbody_pb2),
)
_SPARE = (
    *(client_pb2, field_behavior_pb2, field_info_pb2, launch_stage_pb2, resource_pb2, routing_pb2, visibility_pb2),
    *(code_pb2, error_details_pb2, status_pb2),
    *(calendar_period_pb2, color_pb2, date_pb2, datetime_pb2, dayofweek_pb2, decimal_pb2, expr_pb2, fraction_pb2),
    *(interval_pb2, latlng_pb2, localized_text_pb2, money_pb2, month_pb2, phone_number_pb2, postal_address_pb2),
    *(quaternion_pb2, timeofday_pb2),
)


def _by_name(modules: tuple[object, ...]) -> dict[str, FileDescriptor]:
    files = [getattr(module, "DESCRIPTOR") for module in modules]  # noqa: B009  (a module is no declared type)
    return {file.name: file for file in files}


OWN = _by_name(_OWN)
"""Files that are always ours, by name: of a schema's own copy nothing is used."""

BUNDLED = OWN | _by_name(_SPARE)
"""Files that are at hand when a schema imports them and does not bring them, by name."""

OWN_SYMBOLS = {
    symbol.full_name: file.name
    for file in OWN.values()
    for symbol in (*file.message_types_by_name.values(), *file.enum_types_by_name.values())
}
"""The file that declares each message and enum of ours; no other file may."""
