"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority of its own."""

    directory: Path
    cert: Path
    key: Path

    @classmethod
    def create(cls, directory: Path) -> Authority:
        directory.mkdir(parents=True)
        cert, key = directory / "ca.pem", directory / "ca.key"
        extensions = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        _openssl("req", "-x509", "-subj", "/CN=test authority", *_new_key(key), "-out", cert, "-days", "2", *extensions)
        return cls(directory, cert, key)

    def issue(self, name: str, *alternatives: str) -> tuple[Path, Path]:
        """Return certificate and key for a server and client with these names, such as "DNS:localhost"."""
        cert, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName={','.join(alternatives)}\nextendedKeyUsage=serverAuth,clientAuth\n"
            "basicConstraints=CA:FALSE\n"
        )
        _openssl("req", "-new", "-subj", f"/CN={name}", *_new_key(key), "-out", request)
        signing = ("-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, "-out", cert, *signing)
        return cert, key


def _new_key(key: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
