"""`call`: call a method of any gRPC server that has reflection.

Owns the words of the command. Loads gRPC only when it is called.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mesh.cli.flags import Output, OutputFlags
from mesh.settings import GRPC_PORT, LOOPBACK

GATEWAY = f"{LOOPBACK}:{GRPC_PORT}"


@dataclasses.dataclass(frozen=True, slots=True)
class CallFlags:
    """Whom to call, and for how long to wait."""

    application: Annotated[
        str, typer.Option(help="The application meant, where several serve the service.", metavar="NAME")
    ] = ""
    grpc_address: Annotated[
        str, typer.Option(help="The gRPC port of a gateway, or any gRPC server.", metavar="HOST:PORT")
    ] = GATEWAY
    timeout: Annotated[float, typer.Option(min=0.001, help="Time limit of it all.", metavar="SECONDS")] = 60.0


def call(
    method: Annotated[str, typer.Argument(help="Full name of the service, and the method.", metavar="SERVICE/METHOD")],
    data: Annotated[
        str,
        typer.Option("--data", "-d", help="The request as JSON; @FILE reads a file, @- stdin.", metavar="JSON"),
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="Metadata; may be repeated.", metavar="NAME:VALUE")
    ] = None,
    *,
    to: CallFlags,
    output: OutputFlags,
) -> None:
    """Call a gRPC method with JSON; the server's reflection says how.

    Each answer is a line of JSON. Where the method takes a stream of requests,
    each line of the data is one; it is sent as soon as it is read.

    \b
    Examples:
      meshctl call library.v1.LibraryService/GetShelf -d '{"name": "shelves/rome"}'
      meshctl call library.v1.LibraryService/AddBooks -d @books.ndjson
      meshctl call library.v1.LibraryService/GetShelf --grpc-address 10.0.0.5:9000
    """
    from mesh.cli import call_words, grpc_call, json_input
    from mesh.cli.interrupts import raise_it
    from mesh.cli.output import data as rendered
    from mesh.cli.terminal import style, write

    asked = grpc_call.Asked(method, call_words.metadata(header or (), to.application), to.timeout)
    form = style(Output.YAML if output.output is Output.YAML else Output.JSON, one_line=True)
    raise_it()
    with json_input.opened(data) as given:
        grpc_call.call(to.grpc_address, asked, given, lambda value: write(rendered(value, form)))
