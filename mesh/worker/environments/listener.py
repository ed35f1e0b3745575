"""Who is told what goes on while an environment is made ready.

Owns the form in the worker's log: each step and each line that an installer prints, with the labels of whoever waits
for it. Credentials in URLs are taken out. Called by `prepare`; made by the builds and the supervisor.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping

log = logging.getLogger("mesh.worker")

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class Listener:
    """One build or replica that waits. `doing` is called with each step, in one line."""

    def __init__(self, labels: Mapping[str, str], doing: Callable[[str], None]) -> None:
        self._labels = labels
        self._doing = doing

    def doing(self, text: str) -> None:
        """A step begins."""
        log.info("%s", text, extra=self._labels)
        self._doing(text)

    def printed(self, line: str) -> None:
        """An installer printed a line."""
        log.info("%s", line, extra=self._labels)

    def warned(self, text: str) -> None:
        """Something is worth to be mended."""
        log.warning("%s", text, extra=self._labels)


def without_credentials(text: str) -> str:
    """Return a text without user names and passwords in its URLs."""
    return _CREDENTIALS.sub("***@", text)
