"""The parts of a worker's environments, put together.

Owns assembly only. Called by the worker's server, and by whoever builds without a worker.
"""

from __future__ import annotations

from pathlib import Path

from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.settings import WorkerSettings, cache_directory
from mesh.worker.environments.cache import Cache
from mesh.worker.environments.fetch import Fetcher
from mesh.worker.environments.packages import Packages
from mesh.worker.environments.prepare import Environments
from mesh.worker.environments.resolver import Resolver
from mesh.worker.environments.tools import Tools
from mesh.worker.environments.venvs import Venvs
from mesh.worker.watchdog import Watchdog


def environments(settings: WorkerSettings, credentials: Credentials, watchdog: Watchdog, clock: Clock) -> Environments:
    """Return the environments of a worker. Nothing is read or written before something has to be fetched."""
    # Replicas and builds are told paths in it, and run in directories of their own.
    directory = Path(settings.cache_dir or cache_directory()).absolute()
    cache = Cache(directory, settings.cache_bytes_max, clock)
    packages = Packages(settings.control, credentials, clock)
    tools, resolver = Tools(watchdog, clock), Resolver(settings.allow_private_urls)
    fetcher = Fetcher(cache, packages, resolver, tools)
    return Environments(cache, fetcher, Venvs(cache, resolver, tools), settings.environment_timeout_s)
