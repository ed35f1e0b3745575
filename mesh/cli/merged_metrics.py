"""The metrics of several processes as one page: each series with the process that it is of.

Owns the merging of Prometheus text pages. Pure. Called by `gateway_processes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL = "process"


def merged(pages: Mapping[str, str]) -> bytes:
    """Return one page of several, by process. Raises ValueError if one of them is no page of metrics."""
    families: dict[str, Metric] = {}
    for process, page in pages.items():
        for found in text_string_to_metric_families(page):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [s._replace(labels={**s.labels, LABEL: process}) for s in found.samples]
    return generate_latest(_Families(families.values()))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families
