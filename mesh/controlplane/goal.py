"""Changes of the goal state that people ask for: apply, delete, shutdown.

Owns the read, check, commit cycle: all or nothing, fenced, repeated when somebody else was faster. One change at
a time. Each revision is noted in its application's history before it is accepted, never after. Called by `api`, and by
`revise` for changes of one application, on the leading instance only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mesh import wire
from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.controlplane.apply import Applied, applied, check_expected, check_under_way, deleted, goal
from mesh.controlplane.execute import parts
from mesh.controlplane.history import Why, noted
from mesh.controlplane.leader import Leadership
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.package_store import PackageStore
from mesh.controlplane.records import (
    APPLICATIONS,
    OPTIONS,
    application_key,
    applications_of,
    decode_history,
    decode_options,
    encode_application,
    encode_history,
    history_key,
)
from mesh.controlplane.store import Compare, Item, OutcomeUnknown, Put, Remove, Store
from mesh.controlplane.term import Term
from mesh.controlplane.validate import (
    APPLICATIONS_PER_APPLY_MAX,
    apply_problems,
    missing_packages,
    named_packages,
    options_problems,
)
from mesh.errors import Conflict, InvalidConfig, MeshError, NotFound, Problem, Unreachable
from mesh.model import Application, ApplicationConfig, Cors
from mesh.revision import RevisionHistory
from mesh.serving.cors import cors_problems
from mesh.serving.options import nearest, shown
from mesh.v1 import deployment_pb2, deployment_service_pb2

ATTEMPTS_MAX = 8
"""The leader's own loop changes applications, too; each attempt reads again."""
_PAUSES = Backoff(initial_s=0.02, max_s=0.5)

log = logging.getLogger("mesh.controlplane.goal")


@dataclass(frozen=True, slots=True)
class Stored:
    """The goal state as it was read."""

    applications: Mapping[str, Application]
    options: deployment_pb2.Config
    revision_of: Callable[[str], int]
    """Returns the revision of a key's last change; 0 if it does not exist."""
    items: Mapping[str, Item] | None = None
    """As they were read; None if they were not, since the leader knows them."""
    history: RevisionHistory = field(default_factory=RevisionHistory)
    """Of the one application that is to be changed."""

    def has(self, values: Values) -> bool:
        """Whether exactly these values were read (None: the key is not there)."""
        if (items := self.items) is None:
            return False
        return all((items[key].value if key in items else None) == value for key, value in values.items())

    def has_key(self, key: str) -> bool:
        """Whether a key exists."""
        return self.revision_of(key) > 0


Values: TypeAlias = dict[str, bytes | None]
Decide: TypeAlias = Callable[[Stored], tuple[tuple[Applied, ...], Values]]
"""From what is stored: what is done to each application, and the values to store."""


class GoalState:
    """Reads and changes what should run."""

    def __init__(self, store: Store, leadership: Leadership, packages: PackageStore, clock: Clock) -> None:
        self._store = store
        self._packages = packages
        self._leadership = leadership
        self._clock = clock
        self._turn = asyncio.Lock()

    async def config(self, application: str) -> deployment_pb2.Config:
        """Return the goal state as it was applied: of one application, or of all (""). Raises NotFound."""
        stored = await self._read()
        return config_of(stored.applications, stored.options, application)

    async def apply(self, term: Term, request: deployment_service_pb2.ApplyRequest) -> tuple[Applied, ...]:
        """Make the goal state equal to a config. Raises InvalidConfig, Conflict, Unreachable, OutcomeUnknown."""
        config, keep_others = request.config, request.keep_others
        configs = [wire.from_proto(message, ApplicationConfig) for message in config.applications]
        if not request.validate_only:  # what it names may not have been uploaded yet
            await self.check_packages(configs)
        options = _options(config)

        def decide(stored: Stored) -> tuple[tuple[Applied, ...], Values]:
            problems = (
                *_option_problems(options),
                *apply_problems(
                    configs,
                    stored.applications,
                    keep_others=keep_others,
                    sizes=[message.ByteSize() for message in config.applications],
                ),
            )
            if problems:
                raise InvalidConfig(problems)
            result = applied(
                configs,
                stored.applications,
                keep_others=keep_others,
                applied_at=self._clock.wall(),
                hold_on_failure=request.hold_on_failure,
            )
            check_expected(result, stored.applications, request.expected_revisions)
            if not (request.supersede or request.validate_only):
                check_under_way(result, stored.applications)
            values = values_of(result)
            new_options = _merged(stored.options, options) if keep_others else options
            if new_options != stored.options:
                values[OPTIONS] = new_options.SerializeToString(deterministic=True)
            return result, values

        if request.validate_only:
            return decide(await self._read())[0]
        return await self.change(term, decide)

    async def check_packages(self, configs: Sequence[ApplicationConfig]) -> None:
        """Make sure that all packages that configs name are there and stay meanwhile. Raises InvalidConfig."""
        named = named_packages([config.runtime_env for config in configs])
        if problems := missing_packages(named, await self._packages.missing(set(named.values()))):
            raise InvalidConfig(problems)

    async def delete(self, term: Term, application: str) -> None:
        """Delete one application. Raises NotFound, Conflict, Unreachable, OutcomeUnknown."""

        def decide(stored: Stored) -> tuple[tuple[Applied, ...], Values]:
            if application not in stored.applications:
                raise unknown(application, (n for n, a in stored.applications.items() if not a.deleting))
            result = (deleted(stored.applications[application]),)
            return result, values_of(result)

        await self.change(term, decide)

    async def shutdown(self, term: Term) -> None:
        """Delete all applications and the options, in as many commits as they need."""

        def decide(stored: Stored) -> tuple[tuple[Applied, ...], Values]:
            running = [a for _, a in sorted(stored.applications.items()) if not a.deleting]
            result = tuple(deleted(application) for application in running[:APPLICATIONS_PER_APPLY_MAX])
            values = values_of(result)
            if stored.has_key(OPTIONS) and not result:
                values[OPTIONS] = None
            return result, values

        while await self.change(term, decide):
            pass

    async def history(self, application: str) -> RevisionHistory:
        """Return what is noted of the revisions of an application. Raises Unreachable."""
        item = await self._store.get(history_key(application))
        return decode_history(item.key, item.value) if item is not None else RevisionHistory()

    async def change(
        self, term: Term, decide: Decide, why: Callable[[], Why] = Why, *, application: str = ""
    ) -> tuple[Applied, ...]:
        """Read, decide and commit, again while others change the same. Returns what was decided.

        `why`, asked after `decide`, is noted of each revision that is made. With `application` its history is read,
        too. Raises what `decide` raises, Conflict, InvalidConfig, Unreachable, OutcomeUnknown.
        """
        async with self._turn:
            unknown_outcome: tuple[tuple[Applied, ...], Values] | None = None
            for attempt in range(ATTEMPTS_MAX):
                if attempt:
                    await asyncio.sleep(_PAUSES.pause_s(attempt, self._clock.random))
                decided = await self._from_known(term.mirror, decide, application) if not attempt else None
                if decided is None:
                    stored = await self._read(application)
                    if unknown_outcome is not None and stored.has(unknown_outcome[1]):
                        return unknown_outcome[0]
                    decided = (stored, *decide(stored))
                stored, result, values = decided
                if not values:
                    return result
                try:
                    await self._store_all(term, values, await self._notes(result, stored, why()), stored)
                except Conflict as error:
                    unknown_outcome = None
                    log.debug("the goal state changed meanwhile: %s; looking again", error)
                except OutcomeUnknown:
                    if attempt == ATTEMPTS_MAX - 1:
                        raise
                    unknown_outcome = (result, values)
                else:
                    return result
            raise Conflict("the goal state kept changing meanwhile; nothing was done", hint="repeat the command")

    async def _notes(self, result: Iterable[Applied], stored: Stored, why: Why) -> dict[str, tuple[bytes, int]]:
        """Return what is to be noted of the revisions that are made, and of those before, by key; with its revision."""
        made = {}
        for item in result:
            before = stored.applications.get(item.name)
            if item.application is not None and (before is None or before.revision != item.revision):
                made[history_key(item.name)] = (before, item.application)
        known = dict(zip(made, await asyncio.gather(*map(self._store.get, made)), strict=True))
        notes = {}
        for key, (before, after) in made.items():
            item_known = known[key]
            history = decode_history(key, item_known.value) if item_known is not None else RevisionHistory()
            value = encode_history(noted(history, before, after, why))
            notes[key] = (value, item_known.revision if item_known is not None else 0)
        return notes

    async def _store_all(
        self, term: Term, values: Values, notes: Mapping[str, tuple[bytes, int]], stored: Stored
    ) -> None:
        """Store what was decided and what is noted of it: at once, or the notes first where that is too much."""

        def revision_of(key: str) -> int:
            return notes[key][1] if key in notes else stored.revision_of(key)

        noted_values: Values = {key: value for key, (value, _) in notes.items()}
        if len(list(parts(noted_values | values))) > 1:
            for part in parts(noted_values):
                await self._commit(term, part, revision_of)
            noted_values = {}
        await self._commit(term, noted_values | values, revision_of)

    async def _commit(self, term: Term, values: Values, revision_of: Callable[[str], int]) -> None:
        if not self._leadership.is_leader:
            raise Unreachable("leadership moved meanwhile", hint="repeat the command")
        compares = [self._leadership.fence(), *(Compare(key, revision_of(key)) for key in values)]
        operations = [Remove(key) if value is None else Put(key, value) for key, value in values.items()]
        try:
            revision = await self._store.commit(compares, operations)
        except OutcomeUnknown:
            term.mirror.unknown_outcomes += 1
            raise
        except ValueError as error:
            text = f"the change is too large for one commit of the store: {error}"
            raise InvalidConfig((Problem("applications", text, "apply it in parts, keeping the others"),)) from error
        term.mirror.committed(values, revision)
        term.changed.ring()

    async def _from_known(
        self, mirror: Mirror, decide: Decide, application: str
    ) -> tuple[Stored, tuple[Applied, ...], Values] | None:
        """Decide on the goal state as the leader knows it; None if it has to be read.

        What is to be stored is compared with the store when it is. That there is nothing to store, or an error, is said
        of what was read only: nothing would tell that it is not so any more.
        """
        history = await self.history(application) if application else RevisionHistory()
        if mirror.is_behind:
            return None
        known = Stored(mirror.applications, mirror.options, mirror.revision_of, history=history)
        try:
            result, values = decide(known)
        except MeshError:
            return None
        # As of this very moment: what the mirror hears until it is stored was not decided on.
        revisions = {key: mirror.revision_of(key) for key in values}
        return (replace(known, revision_of=revisions.__getitem__), result, values) if values else None

    async def _read(self, application: str = "") -> Stored:
        listing, options = await asyncio.gather(self._store.list(APPLICATIONS), self._store.get(OPTIONS))
        items = {item.key: item for item in (*listing.items, *((options,) if options else ()))}
        decoded = decode_options(options.value) if options else deployment_pb2.Config()
        history = await self.history(application) if application else RevisionHistory()
        revisions = {key: item.revision for key, item in items.items()}
        return Stored(applications_of(listing.items), decoded, lambda key: revisions.get(key, 0), items, history)


def config_of(
    applications: Mapping[str, Application], options: deployment_pb2.Config, application: str
) -> deployment_pb2.Config:
    """Return goal state as it was applied: of one application, or of all (""). Raises NotFound."""
    result = deployment_pb2.Config()
    result.CopyFrom(options)
    wanted = {name: config for name, stored in sorted(applications.items()) if (config := goal(stored)) is not None}
    if application and application not in wanted:
        if application not in applications:
            raise unknown(application, wanted)
        why = "it failed and never served" if applications[application].failure else "it is to be deleted"
        text = f"application {shown(application)} is no part of the goal: {why}"
        raise NotFound(text, hint="see meshctl status")
    for config in wanted.values() if not application else (wanted[application],):
        message = wire.to_proto(config, deployment_pb2.ApplicationConfig)
        if not message.runtime_env.ByteSize():
            message.ClearField("runtime_env")
        result.applications.append(message)
    return result


def unknown(application: str, known: Iterable[str]) -> NotFound:
    """Return the error for an application that does not exist."""
    known = sorted(known)
    hint = nearest(application, known) if known else "there is none"
    return NotFound(f"there is no application {shown(application)}; {hint}", hint="see meshctl status")


def values_of(result: Iterable[Applied]) -> Values:
    """Return what to store for what is done to applications."""
    return {application_key(a.name): encode_application(a.application) for a in result if a.application is not None}


def _options(config: deployment_pb2.Config) -> deployment_pb2.Config:
    options = deployment_pb2.Config()
    options.CopyFrom(config)
    options.ClearField("applications")
    return options


def _merged(stored: deployment_pb2.Config, given: deployment_pb2.Config) -> deployment_pb2.Config:
    merged = deployment_pb2.Config()
    merged.CopyFrom(stored)
    if given.http_options.HasField("cors"):
        merged.http_options.ClearField("cors")  # MergeFrom would join the lists of the two
    merged.MergeFrom(given)
    return merged


def _option_problems(options: deployment_pb2.Config) -> tuple[Problem, ...]:
    http, grpc = options.http_options, options.grpc_options
    return (
        *options_problems(
            http.port if http.HasField("port") else None,
            grpc.port if grpc.HasField("port") else None,
            http.request_timeout_s if http.HasField("request_timeout_s") else None,
        ),
        *cors_problems(wire.from_proto(http.cors, Cors), at="http_options.cors"),
    )
