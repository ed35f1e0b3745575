"""Downloads a file by https.

Owns the connection: TLS with verified certificates, to an address that was checked before, each redirect as if it were
the first, bounds on size and silence. Blocks: called in threads, by `fetch`.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse
from urllib3.util.ssl_match_hostname import CertificateError

from mesh.errors import EnvironmentFailed
from mesh.worker.environments.packages import PACKAGE_BYTES_MAX
from mesh.worker.environments.resolver import Resolver
from mesh.worker.environments.work import Work

REDIRECTS_MAX = 5
_CHUNK_BYTES = 256 * 1024
_CONNECT_TIMEOUT_S = 10.0
_SILENT_TIMEOUT_S = 30.0
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": "mesh", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


def download(url: str, into: Path, resolver: Resolver, work: Work) -> str:
    """Write what is at an https URL to a file; return its sha256 in hex. Raises EnvironmentFailed and Stopped."""
    here = url
    for _ in range(REDIRECTS_MAX + 1):
        with _answer(_checked(here), resolver, work) as response:
            if response.status in _REDIRECTS:
                here = urljoin(here, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise EnvironmentFailed(f"{_shown(here)} answers with status {response.status}", hint="mend the URL")
            return _written(response, into, work)
    raise EnvironmentFailed(f"{_shown(url)} redirects more than {REDIRECTS_MAX} times", hint="mend the URL")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise EnvironmentFailed(f"{_shown(url)} is no URL", hint="mend the URL") from None
    if parts.scheme != "https" or not host or port == 0:
        raise EnvironmentFailed(f"it redirects to {_shown(url)}, which is not https", hint="name where the file is")
    if parts.username is not None or parts.password is not None:
        raise EnvironmentFailed("it redirects to a URL with credentials", hint="name where the file is")
    return parts


@contextmanager
def _answer(url: SplitResult, resolver: Resolver, work: Work) -> Iterator[HTTPResponse]:
    host, port = url.hostname or "", url.port or 443
    addresses = resolver.addresses(host, port)
    connection = _connected(host, port, addresses, work)

    def hang_up() -> None:
        if (sock := connection.sock) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    try:
        with work.stopping(hang_up):
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("GET", target, headers={"Host": url.netloc, **_HEADERS}, preload_content=False)
            yield connection.getresponse()
    except (HTTPError, OSError) as error:
        work.check()
        raise EnvironmentFailed(f"{host} cannot be read from: {_why(error)}", hint="try again later") from error
    finally:
        connection.close()


def _connected(host: str, port: int, addresses: tuple[str, ...], work: Work) -> HTTPSConnection:
    """Connect to the first of the addresses that takes it; the certificate has to be the host's."""
    failure: Exception | None = None
    for address in addresses:
        work.check()
        connection = HTTPSConnection(
            address,
            port,
            timeout=_CONNECT_TIMEOUT_S,
            ssl_context=ssl.create_default_context(),
            server_hostname=host,
            assert_hostname=host,
        )
        try:
            connection.connect()
        except (HTTPError, CertificateError, OSError) as error:
            connection.close()
            failure = error
            continue
        connection.sock.settimeout(_SILENT_TIMEOUT_S)
        return connection
    why = _why(failure) if failure is not None else "it has no address"
    raise EnvironmentFailed(f"{host} cannot be connected to: {why}", hint="mend the URL, or try again later")


def _written(response: HTTPResponse, into: Path, work: Work) -> str:
    digest, size = hashlib.sha256(), 0
    with into.open("wb") as file:
        while data := response.read1(_CHUNK_BYTES):
            work.check()
            size += len(data)
            if size > PACKAGE_BYTES_MAX:
                raise EnvironmentFailed(
                    f"the file has more than {PACKAGE_BYTES_MAX // (1024 * 1024)} MiB", hint="make it smaller"
                )
            digest.update(data)
            file.write(data)
    expected = response.headers.get("Content-Length", "")
    if expected.isdecimal() and int(expected) != size:
        raise EnvironmentFailed(f"the file ends after {size} of {expected} bytes", hint="try again later")
    return digest.hexdigest()


def _why(error: BaseException) -> str:
    """Return the system's or TLS's word for a failure, which is at the bottom of what was raised."""
    if isinstance(error, CertificateError):
        return "its certificate is for another host"
    below: BaseException | None = error
    while below is not None:
        if said := getattr(below, "verify_message", None) or getattr(below, "strerror", None):
            return str(said)
        below = below.__cause__ or below.__context__
    return type(error).__name__


def _shown(url: str) -> str:
    """Return a URL without its query, which may hold a credential."""
    bare = url.partition("?")[0]
    return bare if len(bare) <= 200 else bare[:199] + "…"
