"""Reads a file of an object store, by fsspec.

Owns the extras that bring it: s3fs and gcsfs are optional. Credentials and endpoints are those of the worker's own
environment. Blocks: called in threads, by `fetch`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mesh.errors import EnvironmentFailed
from mesh.packages.place import Bucket
from mesh.worker.environments.listener import without_credentials
from mesh.worker.environments.packages import PACKAGE_BYTES_MAX
from mesh.worker.environments.work import Stopped, Work

_CHUNK_BYTES = 1024 * 1024
_PROTOCOLS = {"s3": "s3", "gs": "gcs"}


def download(place: Bucket, into: Path, work: Work) -> str:
    """Write a file of a bucket to the file `into`; return its sha256 in hex. Raises EnvironmentFailed and Stopped."""
    digest, size = hashlib.sha256(), 0
    filesystem = _filesystem(place.scheme)
    try:
        with filesystem.open(f"{place.bucket}/{place.file}", "rb") as source, into.open("wb") as file:
            while data := source.read(_CHUNK_BYTES):
                work.check()
                size += len(data)
                if size > PACKAGE_BYTES_MAX:
                    raise EnvironmentFailed(
                        f"the file has more than {PACKAGE_BYTES_MAX // (1024 * 1024)} MiB", hint="make it smaller"
                    )
                digest.update(data)
                file.write(data)
    except (EnvironmentFailed, Stopped):
        raise
    except Exception as error:  # each store has errors of its own
        said = without_credentials(f"{type(error).__name__}: {error}")
        text = f"{place.scheme}://{place.bucket}/{place.file} cannot be read: {said}"
        hint = "check the name, and the worker's credentials for it"
        raise EnvironmentFailed(text, hint=hint) from error
    return digest.hexdigest()


def _filesystem(scheme: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(_PROTOCOLS[scheme])
    except (ImportError, ValueError) as error:
        text = f"the worker has nothing to read {scheme}:// with"
        raise EnvironmentFailed(text, hint=f"install mesh-serve[{scheme}] where the workers run") from error
