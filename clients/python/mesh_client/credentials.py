"""How a caller shows who it is, and how it knows the other side.

Owns reading the files of tokens and certificates. What they hold never gets into an error or a log. Used by
`connecting` and the HTTP shells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

_FILE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What is presented and asked. Without any of it, connections are plain.

    `token`: a bearer token, or a function that returns the one that holds now; `token_file`: a file whose first line is
    that, read again for each request, so that it can be renewed. `ca`, `cert` and `key` are paths of PEM files: with
    any of them, or with `tls`, connections are encrypted; without `ca` the system's authorities are trusted.
    `server_name`: the name that the other side's certificate carries, instead of the host at which it is reached
    (gRPC only).
    """

    token: str | Callable[[], str] | None = None
    token_file: str | Path | None = None
    tls: bool = False
    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")

    @property
    def encrypted(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls or self.ca is not None or self.cert is not None

    def authorization(self) -> str | None:
        """Return the value of `authorization`, None: there is none. Raises OSError, ValueError."""
        token = self.token() if callable(self.token) else self.token
        if self.token_file is not None:
            lines = _content(self.token_file).decode("ascii", "replace").splitlines()
            token = next((line.strip() for line in lines if line.strip()), "")
        if token is None:
            return None
        if not token.isascii() or not token.isprintable() or not token:
            raise ValueError("the token is empty, or has characters that no header takes")
        return f"Bearer {token}"

    def of_channel(self) -> grpc.ChannelCredentials | None:
        """Return what a channel needs for TLS, None without. Raises OSError."""
        if not self.encrypted:
            return None
        ca, key, cert = (_content(path) if path is not None else None for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


OPEN = Credentials()
"""Presents nothing and asks nothing."""


def _content(path: str | Path) -> bytes:
    with Path(path).open("rb") as file:
        if len(content := file.read(_FILE_BYTES_MAX + 1)) > _FILE_BYTES_MAX:
            raise ValueError(f"{path} is far too long")
    return content
