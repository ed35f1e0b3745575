"""`history`, `rollback`, `scale`, `restart`, `pause`, `resume`: commands on the revisions of one application.

Owns the words of the commands. Loads nothing heavy before one of them is call_control.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.applications import call_control, followed
from mesh.cli.change_flags import SupersedeFlags
from mesh.cli.flags import ClientFlags, OutputFlags, WaitFlags

if TYPE_CHECKING:
    from mesh.cli.client import Client
    from mesh.v1.deployment_service_pb2 import AppliedApplication
    from mesh.v1.revision_service_pb2 import ChangeOptions

Name = Annotated[str, typer.Argument(help="Name of an application.", metavar="NAME")]


def history(name: Name, *, client: ClientFlags, output: OutputFlags) -> None:
    """List the revisions of an application: when, why, and what became of each.

    \b
    Examples:
      meshctl history default
      meshctl history default -o json
    """
    from mesh.cli.output_revisions import history as rendered
    from mesh.cli.terminal import style, write
    from mesh.v1.revision_service_pb2 import ListRevisionsRequest
    from mesh.v1.revision_service_pb2_grpc import RevisionServiceStub

    request = ListRevisionsRequest(application=name)

    async def main(client: Client) -> None:
        answer = await client.read(lambda stub, s: stub.ListRevisions(request, timeout=s), service=RevisionServiceStub)
        write(rendered(answer, style(output.output)))

    call_control(client, main)


def rollback(
    name: Name,
    to: Annotated[
        int, typer.Option("--to", min=0, help="Revision to go back to.", show_default="the last other that served")
    ] = 0,
    *,
    change: SupersedeFlags,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Make a new revision with the config of an older one, and wait until it serves.

    \b
    Examples:
      meshctl rollback default
      meshctl rollback default --to 3
    """
    from mesh.v1.revision_service_pb2 import RollbackRequest

    def make(stub: Any, options: ChangeOptions, seconds: float) -> Any:
        return stub.Rollback(RollbackRequest(application=name, to_revision=to, options=options), timeout=seconds)

    _change(name, make, change, wait, client, output)


def scale(
    name: Name,
    replicas: Annotated[list[str], typer.Argument(help="Replicas of a deployment.", metavar="DEPLOYMENT=N…")],
    *,
    change: SupersedeFlags,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Set how many replicas deployments have, and wait until they are ready.

    `meshctl config` shows the new number; a config file that is deployed later decides anew.

    \b
    Examples:
      meshctl scale default SlowDeployment=4
    """
    from mesh.v1.revision_service_pb2 import ScaleRequest

    counts = _counts(replicas)

    def make(stub: Any, options: ChangeOptions, seconds: float) -> Any:
        return stub.Scale(ScaleRequest(application=name, num_replicas=counts, options=options), timeout=seconds)

    _change(name, make, change, wait, client, output)


def restart(
    name: Name,
    deployments: Annotated[
        list[str] | None, typer.Argument(help="Deployments; all without any.", metavar="DEPLOYMENT…")
    ] = None,
    *,
    change: SupersedeFlags,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Replace replicas by new ones of the same config, as a rollout does.

    \b
    Examples:
      meshctl restart default
      meshctl restart default SlowDeployment
    """
    from mesh.v1.revision_service_pb2 import RestartRequest

    def make(stub: Any, options: ChangeOptions, seconds: float) -> Any:
        request = RestartRequest(application=name, deployments=deployments or (), options=options)
        return stub.Restart(request, timeout=seconds)

    _change(name, make, change, wait, client, output)


def pause(name: Name, *, wait: WaitFlags, client: ClientFlags, output: OutputFlags) -> None:
    """Make the rollouts of an application stand still.

    What is lost is restored, and nothing else happens. What is deployed meanwhile waits until `meshctl resume`.

    \b
    Examples:
      meshctl pause default
    """

    async def main(client: Client) -> None:
        await _set_paused(client, name, True, wait, output)

    call_control(client, main)


def resume(name: Name, *, wait: WaitFlags, client: ClientFlags, output: OutputFlags) -> None:
    """Let the rollouts of a paused application go on, and wait until its newest revision serves.

    \b
    Examples:
      meshctl resume default
    """
    from mesh.cli.follow import Following

    async def main(client: Client) -> None:
        revision = await _set_paused(client, name, False, wait, output)
        if wait.wait:
            await followed(client, Following(revisions={name: revision}), wait.timeout, what="the rollout goes on")

    call_control(client, main)


async def _set_paused(client: Client, name: str, paused: bool, wait: WaitFlags, output: OutputFlags) -> int:
    """Pause or resume, say so, and return the newest revision."""
    from mesh.cli.output_revisions import paused as rendered
    from mesh.cli.terminal import style, write
    from mesh.v1.revision_service_pb2 import SetPausedRequest
    from mesh.v1.revision_service_pb2_grpc import RevisionServiceStub

    request = SetPausedRequest(application=name, paused=paused)
    async with client.within(wait.timeout, "not stored"):
        answer = await client.call(
            lambda stub: stub.SetPaused(request, timeout=client.left_s()), service=RevisionServiceStub
        )
    write(rendered(name, answer.revision, paused, style(output.output)))
    return int(answer.revision)


def _change(
    name: str,
    make: Callable[[Any, ChangeOptions, float], Awaitable[Any]],
    change: SupersedeFlags,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Make a revision when it is its turn, and wait until it serves."""
    from mesh.cli import deploying
    from mesh.cli.follow import Following
    from mesh.cli.output import applied as rendered
    from mesh.cli.terminal import say, style, write
    from mesh.clock import SYSTEM
    from mesh.v1.deployment_service_pb2 import ApplyResponse
    from mesh.v1.revision_service_pb2 import ChangeOptions
    from mesh.v1.revision_service_pb2_grpc import RevisionServiceStub

    options = ChangeOptions(supersede=change.supersede, request_id=SYSTEM.token(16))

    async def main(client: Client) -> None:
        async def work(seen: Mapping[str, int]) -> AppliedApplication:
            options.expected_revision = seen.get(name, 0)
            answer = await client.call(lambda stub: make(stub, options, client.left_s()), service=RevisionServiceStub)
            application: AppliedApplication = answer.application
            return application

        done = await deploying.in_turn(client, deploying.Turn(wait.timeout, say, wait.wait), work)
        following = Following.of([done])
        if wait.wait:
            await followed(client, following, wait.timeout, what="the rollout goes on")
        write(rendered(ApplyResponse(applications=[done]), following.states, style(output.output)))

    call_control(client, main)


def _counts(pairs: list[str]) -> dict[str, int]:
    """Return the numbers in DEPLOYMENT=N. Raises typer.BadParameter."""
    counts: dict[str, int] = {}
    for pair in pairs:
        name, equals, number = pair.rpartition("=")
        if not (name and equals and number.isascii() and number.isdecimal() and len(number) < 8):
            raise typer.BadParameter(f"{pair!r} is not DEPLOYMENT=N, such as Echo=2", param_hint="DEPLOYMENT=N")
        if name in counts:
            raise typer.BadParameter(f"{name!r} stands there twice", param_hint="DEPLOYMENT=N")
        counts[name] = int(number)
    return counts
