"""What a pass stores in several commits: what others store between these is not overwritten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.controlplane import execute
from mesh.controlplane.execute import Executor
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.records import application_key, decode_application, encode_application
from mesh.controlplane.store import Compare, Item, Listing, Put
from mesh.errors import Conflict
from mesh.model import Application, ApplicationConfig

APPLICATIONS = [Application(config=ApplicationConfig(name=name), revision=1) for name in "ab"]
FENCE = Compare("leader", 1)


class Store:
    """Keeps values with revisions, and has something happen after its first commit."""

    def __init__(self) -> None:
        self.revision = 10
        self.values = {
            application_key(each.config.name): (encode_application(each), self.revision) for each in APPLICATIONS
        }
        self.then: Callable[[], Awaitable[None]] | None = None

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put]) -> int:
        for compare in compares:
            if compare != FENCE and self.values[compare.key][1] != compare.revision:
                raise Conflict("it changed")
        self.revision += 1
        revision = self.revision
        for operation in operations:
            self.values[operation.key] = operation.value, revision
        then, self.then = self.then, None
        if then is not None:
            await then()
        return revision


async def test_what_is_stored_between_two_parts_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "KEYS_PER_COMMIT_MAX", 1)
    leaving = {each.config.name: replace(each, leaving=True) for each in APPLICATIONS}
    changed = SimpleNamespace(applications=leaving, replicas={}, workers=())
    monkeypatch.setattr(execute, "changes", lambda *_: changed)
    store = Store()
    mirror = Mirror(Listing(10, tuple(Item(key, *found) for key, found in store.values.items())))
    term: Any = SimpleNamespace(mirror=mirror, changed=SimpleNamespace(ring=lambda: None))
    key, users = application_key("b"), encode_application(replace(APPLICATIONS[1], revision=2))

    async def apply() -> None:
        revision = await store.commit([Compare(key, mirror.revision_of(key))], [Put(key, users)])
        mirror.committed({key: users}, revision)

    store.then = apply
    with pytest.raises(Conflict):
        await Executor(store, FENCE, term, 1.0).execute((), now=0.0)  # type: ignore[arg-type]
    assert decode_application(key, store.values[key][0]).revision == 2
