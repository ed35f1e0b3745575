"""The sections on our own workloads, and their plots. Pure."""

from __future__ import annotations

from benchmarks.page import svg
from benchmarks.page.tables import (
    BUSY,
    CLIENT_CPU,
    CPU,
    P50,
    P99,
    RATE,
    RATES,
    SERVER_CPU,
    Column,
    figures,
    plot,
    prose,
    sentence,
    table,
)
from benchmarks.page.values import NONE, Results, look, number, shown

CONNECTIONS = (1, 16, 64, 256, 1024)
P90 = Column("p90", "p90_ms", "ms")
BUSY_EACH = tuple(Column(role, f"busy/{role}") for role in ("gateway", "replica", "client", "all"))


def requests(results: Results) -> str:
    """Small requests over HTTP."""
    rows = [(f"no-op, {_connections(count)}", f"latest/noop_{count}_connections") for count in CONNECTIONS]
    rows += [
        (f"… {_connections(count)}, wrk as client", f"latest/noop_{count}_connections_wrk") for count in CONNECTIONS
    ]
    rows += [("… 64 streams of HTTP/2 on one, h2load as client", "latest/noop_h2_64_streams")]
    rows += [("10 KB there and back, 64 connections", "latest/echo_10kb")]
    rows += [
        (f"chain of three by handles, {_connections(count)}", f"latest/handle_chain_{count}_connections")
        for count in (1, 64)
    ]
    rows += [("refusals only, 64 connections", "latest/shed_only_64_connections")]
    rows += [
        (f"sync code, in a thread, {_connections(count)}", f"latest/noop_sync_{count}_connections") for count in (1, 64)
    ]
    rows += [
        ("neither metrics nor access log, 64 connections", "latest/uncounted"),
        ("metrics, access log, scraped each second", "latest/watched"),
    ]
    beside = (
        Column("CPU, of neither", "cpu_to_uncounted"),
        Column("replica CPU, of async code", "replica_cpu_to_async"),
    )
    text = figures(results, "", rows, (RATE, RATES, P50, P90, P99, *CPU, *beside))
    if not text:
        return ""
    known = [(what, path) for what, path in rows if number(results, f"{path}/busy/all") is not None]
    busy = figures(results, "processors busy", known, BUSY_EACH)
    drawn = "\n".join(plot(name, what) for name, what in (("rate", "Requests per second"), ("latency", "Latency")))
    about = busy and prose(
        "Processors busy: CPU of a request times requests a second; all are the servers and the client."
    )
    return f"## Small requests\nA handler that does nothing and answers JSON.\n\n{drawn}\n{text}\n{about}\n{busy}"


def floor(results: Results) -> str:
    """What the libraries below cost alone."""
    parts = (
        ("noop_{}_connections", "mesh"),
        ("floor_http_server_{}", "the HTTP server alone"),
        ("floor_stream_{}", "a gRPC stream alone"),
    )
    rows = [(f"{what}, {count} at once", f"latest/{name.format(count)}") for count in (1, 64) for name, what in parts]
    if look(results, "latest/floor_http_server_1") is None:
        return ""
    text = figures(results, "", rows, (RATE, RATES, P50, P99, SERVER_CPU, *CPU, CLIENT_CPU, BUSY))
    if not text:
        return ""
    why = prose(
        "A request goes through an HTTP server and over a stream of gRPC to a replica. What these cost by themselves, "
        "in the same run, no work on mesh can save: the server with an application of three lines, and a stream that "
        "gives back what it gets, 200 bytes for each request, 64 of them in one message, as from gateway to replica. "
        "The client of the stream is what a gateway is to a replica: its CPU belongs to the stream too."
    )
    return f"## The floor\n{why}\n{text}"


def overload(results: Results) -> str:
    """More than can be served."""
    loads = [("70 %", "latest/load_70_percent"), ("2 ×", "latest/overload_2x"), ("10 ×", "latest/overload_10x")]
    columns = (
        Column("admitted/s", "admitted/per_second"),
        Column("of peak", "goodput_of_peak"),
        Column("admitted p50", "admitted/p50_ms", "ms"),
        Column("admitted p99", "admitted/p99_ms", "ms"),
        Column("refused/s", "shed/per_second"),
        Column("refused p99", "shed/p99_ms", "ms"),
        *(
            Column(name, key)
            for name, key in (("timed out", "timed_out"), ("broken", "broken"), ("not sent", "dropped"))
        ),
    )
    over = figures(results, "load", loads, columns)
    if not over:
        return ""
    text = prose(
        "One replica that can serve 500 a second, ten at a time for 20 ms each, and a queue of ten. Requests come at "
        "random times, whatever becomes of those before them; their latency counts from when they were due."
    )
    peak = figures(results, "", [("peak, closed loop", "latest/overload_peak")], (RATE, P50, P99))
    return f"## Overload\n{text}\n{peak}\n{over}\n{_overload_of_all(results, columns)}"


def _overload_of_all(results: Results, columns: tuple[Column, ...]) -> str:
    late = Column("sent late, p99", "sent_late_p99_ms", "ms")
    over = figures(results, "load", [("2 ×", "latest/overload_of_all_2x")], (*columns, late, SERVER_CPU, CLIENT_CPU))
    if not over:
        return ""
    text = prose(
        "The same for a replica that does nothing, 100 at a time with a queue of 100, so that the peak is what the "
        "machine can do. Two generators bring twice that, on the same processors: what they take mesh lacks. To "
        "refuse costs the gateway a good part of what it costs to serve, so of a peak that takes all of its time "
        "little is left when it has as many to refuse."
    )
    peak = [("peak, closed loop, 200 connections", "latest/overload_of_all_peak")]
    return f"{text}\n{figures(results, '', peak, (RATE, RATES, P50, P99, SERVER_CPU, CLIENT_CPU))}\n{over}"


def overload_clients(results: Results) -> str:
    """Clients that repeat, under overload."""
    kinds = {"mesh_client": "`mesh_client` as it comes", "naive": "repeats at once", "without_repeats": "never repeats"}
    columns = (
        Column("attempts/request", "attempts_per_request"),
        Column("ran/request", "ran_per_request"),
        Column("goodput of peak", "goodput_of_peak"),
        P50,
        P99,
    )
    text = figures(results, "client", [(name, f"overload_clients/{key}") for key, name in kinds.items()], columns)
    what = look(results, "overload_clients/what")
    return f"## Clients under overload\n{sentence(what)}.\n\n{text}" if text else ""


def bodies(results: Results) -> str:
    """Large bodies and streams."""
    ways = [(f"{mb} MB {way}", f"latest/body_{mb}mb_{way}") for mb in (1, 10) for way in ("up", "down")]
    costs = [Column(f"{role} CPU/MB", f"{role}_cpu_us_per_mb", "µs") for role in ("gateway", "replica")]
    text = figures(results, "", ways, (Column("MB/s", "mb_per_second"), P50, P99, *costs))
    beside = {"alone": "alone", "beside_up": "beside 10 MB up", "beside_down": "beside 10 MB down"}
    rows = [(name, f"latest/small_beside_10mb/{key}") for key, name in beside.items()]
    small = figures(results, "small requests", rows, (RATE, P50, P99, Column("p99 over alone", "p99_to_alone")))
    stream = _streams(results)
    if not (text or stream):
        return ""
    what = prose(
        "To user code that reads as they come (up), and from it (down). Of bodies of 10 MB a run has fewer than a "
        "hundred, so their p99 is the slowest."
    )
    return f"## Bodies and streams\n{what}\n{text}\n{small}\n{stream}"


def _streams(results: Results) -> str:
    """Server-sent events, by how user code makes them."""
    if look(results, "latest/sse_50_chunks/http_chunks_per_second") is None:
        return ""
    rows = (
        ("waits 1 ms between two, 256 streams", "latest/sse_50_chunks"),
        ("lets others run between two, 64 streams", "latest/sse_50_chunks_in_turn"),
        ("never waits, 16 streams", "latest/sse_50_chunks_at_once"),
    )
    roles = ("gateway", "replica", "client")
    columns = (
        Column("events/s", "events_per_second"),
        Column("chunks/s on the wire", "http_chunks_per_second"),
        Column("chunks/stream", "chunks_per_answer"),
        *(Column(f"{role} CPU/stream", f"{role}_cpu_us", "µs") for role in roles),
        *(Column(f"… /chunk, {role}", f"{role}_cpu_us_per_chunk", "µs") for role in roles),
        BUSY,
    )
    text = prose(
        "Server-sent events, 50 in a stream, of user code that yields them one by one. A chunk is one of HTTP: events "
        "that wait for the same write leave as one. Where user code waits between two events hardly any do."
    )
    return f"{text}\n{figures(results, 'user code', rows, columns)}"


def grpc(results: Results) -> str:
    """GRPC through the gateway and without it."""
    sides = {"mesh": "through the gateway", "plain": "plain grpc.aio, called directly"}
    sides["plain_as_mesh"] = "… on uvloop, tuned as mesh is"
    kinds = {"grpc_unary": "unary", "grpc_bidi": "bidi, one at a time", "grpc_bidi_16_ahead": "bidi, 16 on their way"}
    rows = [(f"{kind}: {side}", f"latest/{key}/{name}") for key, kind in kinds.items() for name, side in sides.items()]
    costs = (SERVER_CPU, *CPU, CLIENT_CPU, BUSY)
    text = figures(results, "", rows, (Column("messages/s", "per_second"), RATES, P50, P99, *costs))
    ratios = (Column("of plain", "ratio_to_plain"), Column("of plain, tuned", "ratio_to_plain_as_mesh"))
    beside = figures(results, "through the gateway", [(kind, f"latest/{key}") for key, kind in kinds.items()], ratios)
    return (
        f"## gRPC\nThe same servicer and client, each in processes of their own, two of the client.\n\n{text}\n{beside}"
        if text
        else ""
    )


def conversion(results: Results) -> str:
    """JSON and messages."""
    columns = (
        Column("JSON to message", "json_to_proto_us", "µs"),
        Column("with json_format", "json_to_proto_json_format_us", "µs"),
        Column("message to JSON", "proto_to_json_us", "µs"),
        Column("with json_format", "proto_to_json_json_format_us", "µs"),
    )
    names = ("HelloRequest", "HelloReply", "Profile")
    rows = [(f"`{name}`", f"conversion/{name}") for name in names]
    text = figures(results, "CPU of one message", rows, columns)
    return (
        f"## JSON and messages\nAs the gateway converts for REST, beside protobuf's own json_format.\n\n{text}"
        if text
        else ""
    )


def handles(results: Results) -> str:
    """Calls by handles."""
    columns = (
        Column("calls/s", "per_second"),
        Column("CPU of both", "cpu_us", "µs"),
        Column("caller's CPU", "caller_cpu_us", "µs"),
    )
    ways = {"gateway": "as the gateway calls, GET", "gateway_post": "… POST", "handle": "by handle"}
    rows = [
        (f"{name}, {count} at once", f"handles/noop/{count}_at_once/{way}")
        for count in (1, 64)
        for way, name in ways.items()
    ]
    text = figures(results, "", rows, columns)
    arrays = [(name.replace("_", " "), f"handles/array/{name}") for name in ("sent", "got", "sent_and_got")]
    array = figures(results, "array of 1 MB", arrays, (P50, P90))
    return f"## Handles\nOne process calls one replica on one pipe, without HTTP.\n\n{text}\n{array}" if text else ""


def footprint(results: Results) -> str:
    """What there is before the first request."""
    kept = (
        ("`meshctl run` to the first 200", "start_to_first_200_s", "s"),
        ("processes", "processes", ""),
        ("resident, shared pages in each", "resident_mb", "MB"),
        ("… divided among them", "proportional_mb", "MB"),
        ("… not counted", "unique_mb", "MB"),
        ("resident after load", "after_load/resident_mb", "MB"),
        ("CPU when idle", "idle_cpu_percent", "%"),
    )
    rows = [(what, shown(number(results, f"latest/{path}"), unit)) for what, path, unit in kept]
    sizes = (
        ("installed, with all it needs and the byte code that pip writes", "derived/installed/mb"),
        ("… of it byte code", "derived/installed/byte_code_mb"),
        ("… without it", "derived/installed/without_byte_code_mb"),
    )
    rows += [(what, shown(number(results, path), "MB")) for what, path in sizes]
    text = table(("", "measured"), [row for row in rows if row[1] != NONE])
    return f"## Footprint\n`meshctl run`, all of its processes.\n\n{text}" if text else ""


def noop_plots(results: Results) -> dict[str, str]:
    """Return rate and latency of the no-op over connections."""
    counts = [count for count in CONNECTIONS if number(results, f"latest/noop_{count}_connections/p99_ms")]
    if not counts:
        return {}

    def each(key: str) -> list[float]:
        return [number(results, f"latest/noop_{count}_connections/{key}") or 0.001 for count in counts]

    rates = [svg.Bar(_connections(count), [rate]) for count, rate in zip(counts, each("per_second"), strict=True)]
    latencies = [svg.Bar("p50", each("p50_ms")), svg.Bar("p99", each("p99_ms"))]
    marks = [_connections(count) for count in counts]
    return {
        "rate": svg.bars("No-op, requests per second", rates),
        "latency": svg.lines("No-op, latency", marks, latencies, unit="ms"),
    }


def _connections(count: int) -> str:
    return f"{count:,} connection{'s' * (count > 1)}"
