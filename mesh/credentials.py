"""The token and certificates by which the processes of one mesh know each other, read from their files.

Owns reading the files, and reading them again when they change, so that both can be renewed while everything runs. What
a file holds never gets into an error, a log or an argument. Opens no connection: that is `connection`.
"""

from __future__ import annotations

import hmac
import logging
import os
import ssl
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from mesh.errors import InvalidConfig, Problem
from mesh.security import NO_SECURITY, Security, check_files, tokens_in

AUTHORIZATION = "authorization"
SCHEME = "bearer"
_FILE_BYTES_MAX = 1024 * 1024
_T = TypeVar("_T")
_Signature = tuple[tuple[int, int, int], ...]
"""Of each file: inode, size, time of its last change in nanoseconds."""

log = logging.getLogger("mesh.credentials")


class Credentials:
    """What one process presents to the others, and what it wants to see of them.

    Made of settings; without files in them everything is open and nothing is presented.
    """

    def __init__(self, security: Security) -> None:
        """Raises InvalidConfig if a file cannot be used."""
        check_files(security)
        self.security = security
        self._tokens = _Files(("--token-file",), (security.token_file,), _tokens) if security.token_file else None
        flags = ("--tls-cert", "--tls-key", "--tls-ca")
        paths = (security.tls_cert, security.tls_key, security.tls_ca)
        self._tls = _Files(flags, paths, _pair) if security.tls else None
        if security.token_file:
            _warn_if_open(security.token_file)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what to add to the metadata of a call."""
        if self._tokens is None:
            return ()
        return ((AUTHORIZATION, f"Bearer {self._tokens.read()[0]}"),)

    @property
    def wants_token(self) -> bool:
        """Whether callers must present a token."""
        return self._tokens is not None

    def refusal(self, presented: Sequence[str | bytes]) -> str:
        """Return why a call with these `authorization` values is refused, "" if it is not. Takes as long either way."""
        if self._tokens is None:
            return ""
        if not presented:
            return "this process takes calls with its token only, and there is none"
        scheme, _, token = _text(presented[0]).partition(" ")
        given = token.strip().encode("utf-8", "replace")
        matches = [hmac.compare_digest(given, each.encode()) for each in self._tokens.read()]
        if len(presented) > 1 or scheme.lower() != SCHEME or not any(matches):
            return "this process takes calls with its token only, and this is another one"
        return ""

    def of_channel(self) -> grpc.ChannelCredentials | None:
        """Return what a channel needs for TLS, None without."""
        if self._tls is None:
            return None
        pair = self._tls.read()
        return grpc.ssl_channel_credentials(pair.ca, pair.key, pair.cert)

    def of_server(self) -> grpc.ServerCredentials | None:
        """Return what a server needs for TLS, None without. It takes renewed certificates at the next connection."""
        if (files := self._tls) is None:
            return None
        served = files.read()

        def renewed() -> Any:
            nonlocal served
            if (now := files.read()) is served:
                return None
            served = now
            return _server_configuration(now)

        return grpc.dynamic_ssl_server_credentials(_server_configuration(served), renewed, True)


OPEN = Credentials(NO_SECURITY)
"""Presents nothing and asks nothing."""


@dataclass(frozen=True, slots=True, repr=False)
class _Pair:
    """Certificate, its key, and the authority that signed those of the others, in PEM."""

    cert: bytes
    key: bytes
    ca: bytes


class _Files(Generic[_T]):
    """Files that are read together, and again when one of them has changed."""

    def __init__(self, flags: Sequence[str], paths: Sequence[str], parsed: Callable[[Sequence[str]], _T]) -> None:
        """Raises InvalidConfig if they cannot be used now. Later what they held before goes on to count."""
        self._paths = paths
        self._parsed = parsed
        named = ", ".join(f"{flag} {path}" for flag, path in zip(flags, paths, strict=True))
        self._signature = self._signed()
        try:
            self._value = parsed(paths)
        except (OSError, ValueError) as error:
            hint = "name files that this user can read and that belong together"
            raise InvalidConfig((Problem("", f"cannot use {named}: {_why(error)}", hint),)) from None

    def read(self) -> _T:
        """Return what the files hold now, or held when they could last be used."""
        if (signature := self._signed()) != self._signature:
            self._signature = signature
            try:
                self._value = self._parsed(self._paths)
            except (OSError, ValueError) as error:
                # Half written, or of the next pair only the certificate yet: the next change is looked at again.
                log.warning("%s cannot be used now, what was read before counts: %s", self._paths[0], _why(error))
            else:
                log.info("%s was read again", self._paths[0])
        return self._value

    def _signed(self) -> _Signature:
        return tuple(_signature(path) for path in self._paths)


def _signature(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _tokens(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens of a file. Raises OSError or ValueError."""
    try:
        text = _content(paths[0]).decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("it holds characters that are not ASCII") from None
    try:
        return tokens_in(text)
    except ValueError as error:
        raise ValueError(f"it {error}") from None


def _pair(paths: Sequence[str]) -> _Pair:
    """Return what the three files hold. Raises OSError or ValueError, in words that gRPC does not have for it."""
    cert, key, ca = paths
    pair = _Pair(_content(cert), _content(key), _content(ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password it would ask for one at the terminal.
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"certificate and key are not in PEM or not of one pair ({error.reason or 'bad'})") from None
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ValueError(f"the CA is no certificate in PEM ({error.reason or 'bad'})") from None
    return pair


def _no_password() -> str:
    raise ValueError("the key has a password; name one without")


def _content(path: str) -> bytes:
    with Path(path).open("rb") as file:
        if len(content := file.read(_FILE_BYTES_MAX + 1)) > _FILE_BYTES_MAX:
            raise ValueError("it is far too long")
    return content


def _server_configuration(pair: _Pair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], root_certificates=pair.ca)


def _warn_if_open(path: str) -> None:
    # A warning only: secrets are mounted with such modes into containers, where there is no other user.
    if os.stat(path).st_mode & stat.S_IROTH:
        log.warning("%s can be read by every user of this machine; chmod 600 it, unless it is mounted so", path)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
