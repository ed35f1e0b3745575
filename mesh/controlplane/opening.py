"""Opens the stores that the settings name: of the goal state, and of packages beside it.

Owns how a store is named. The packages lie apart, so that whoever follows the goal state never sees them. Called by
`server`.
"""

from __future__ import annotations

from dataclasses import replace

from mesh.clock import Clock
from mesh.controlplane.store import Store
from mesh.errors import InvalidConfig, Problem
from mesh.settings import ControlPlaneSettings

BESIDE = "-packages"
"""What the name of the goal state's file or prefix has after it where packages lie."""
_MEMORY = ":memory:"
_PACKAGES_TIMEOUT_S = 5.0
"""Seconds for one call to etcd: a chunk is much larger than what the goal state writes."""


async def open_store(settings: ControlPlaneSettings, clock: Clock, *, packages: bool = False) -> Store:
    """Open the store of the goal state, or that of packages. Raises InvalidConfig, Conflict or Unreachable."""
    scheme, _, rest = settings.store.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from mesh.controlplane.sqlite_store import open_sqlite

        path = rest.removeprefix("/")
        if packages:
            return await open_sqlite(path if path == _MEMORY else path + BESIDE, bulk=True, clock=clock)
        return await open_sqlite(path, clock=clock)
    endpoints, _, prefix = rest.partition("/")
    # Without a prefix its keys could get between those of somebody else, or of another mesh.
    if scheme == "etcd" and endpoints and prefix.strip("/"):
        return await _open_etcd(settings, endpoints, prefix, clock, packages=packages)
    wrong, hint = "does not name a store", "write sqlite:///FILE or etcd://HOST:PORT[,HOST:PORT…]/PREFIX"
    if scheme == "etcd" and endpoints:
        wrong, hint = "has no prefix for its keys", f"write etcd://{endpoints}/PREFIX, such as etcd://{endpoints}/mesh"
    raise InvalidConfig((Problem("store", f"{settings.store!r} {wrong}", hint),))


async def _open_etcd(
    settings: ControlPlaneSettings, endpoints: str, prefix: str, clock: Clock, *, packages: bool
) -> Store:
    # Imported when needed: the embedded store must not pay for etcd's client.
    from mesh.controlplane.etcd_options import EtcdOptions
    from mesh.controlplane.etcd_store import open_etcd

    options = EtcdOptions(
        endpoints=tuple(part for part in endpoints.split(",") if part),
        prefix=prefix,
        ca_cert=settings.etcd_ca_cert,
        cert_cert=settings.etcd_cert,
        cert_key=settings.etcd_key,
        user=settings.etcd_user,
        password_file=settings.etcd_password_file,
    )
    if packages:
        options = replace(options, prefix=prefix.rstrip("/") + BESIDE, timeout_s=_PACKAGES_TIMEOUT_S)
    return await open_etcd(options, clock=clock)
