"""Ids of models: what may be one.

Owns the rule, for headers, metadata and handles alike. Ids come from clients, and code makes paths and URLs of them: so
they are short, have no odd characters, and lead nowhere up. Pure.
"""

from __future__ import annotations

import re

MODEL_ID_CHARS_MAX = 200
_MODEL_ID = re.compile(r"[A-Za-z0-9._:/@+=-]+")


def model_id_problem(model_id: object) -> str:
    """Return why `model_id` is none, "" if it is one."""
    if not isinstance(model_id, str) or not model_id:
        return "must be a text that is not empty"
    if len(model_id) > MODEL_ID_CHARS_MAX:
        return f"must have {MODEL_ID_CHARS_MAX} characters at most"
    if _MODEL_ID.fullmatch(model_id) is None:
        return "must be of letters, digits and . _ : / @ + = -"
    if model_id.startswith("/") or ".." in model_id.split("/"):
        return "must not begin with / nor have .. between slashes"
    return ""
