"""The sections on more of everything: processes, replicas, routes, connections. Pure."""

from __future__ import annotations

from benchmarks.page.tables import BUSY, CPU, EACH, P50, P99, RATE, RATES, Column, figures, prose, table
from benchmarks.page.values import NONE, Results, look, number, shown, spread

FRAMES = (
    Column("frames/message, there", "frames_per_message_in"),
    Column("back", "frames_per_message_out"),
)
ONE, LARGE = "applications_1", "applications_100"
INSTRUCTIONS = Column("instructions", "instructions")


def scale(results: Results) -> str:
    """Replicas and gateway processes."""
    rows = [(f"{n} replica{'s' * (n > 1)}", f"latest/replicas_{n}") for n in (1, 2, 4)]
    rows += [(f"{n} gateway process{'es' * (n > 1)}", f"latest/gateway_processes_{n}") for n in (1, 2)]
    text = figures(results, "", rows, (RATE, RATES, P50, P99, Column("of one", "ratio_to_1"), *CPU, BUSY))
    if not text:
        return ""
    what = "On the same processors: what more of them cost where there is no room for them."
    return f"## More processes\n{what}\n\n{text}\n{_messages(results)}"


def _messages(results: Results) -> str:
    """Why two gateway processes cost more: their messages are smaller."""
    rows = [
        (f"{n} gateway process{'es' * (n > 1)}", f"scale_out/processes/gateway_processes_{n}")
        for n in (1, 2)
        if look(results, "scale_out/processes") is not None
    ]
    text = figures(results, "", rows, (RATE, RATES, P50, P99, CPU[0], *FRAMES))
    what = prose(
        "The same before two replicas that run nothing and count messages. A message costs either side some ten times "
        "what a frame in it does. Each process has a pipe of its own to each replica, and its share of the requests: "
        "so fewer of them meet in a message, and each of them costs more. Processes pay where each has a processor."
    )
    return f"{what}\n{text}" if text else ""


def scale_out(results: Results) -> str:
    """What connections, replicas and routes cost a gateway."""
    rows = [
        (what, f"scale_out/table/{key}")
        for what, key in (
            ("1 replica", "replicas_1"),
            ("10 replicas of 1 application", ONE),
            ("1,000 replicas of 100 applications, one is asked", f"{LARGE}_one_asked"),
            ("1,000 replicas of 1 application", "replicas_1000"),
            ("1,000 replicas of 100 applications", LARGE),
        )
    ]
    idle = (Column("memory", "proportional_mb", "MB"), Column("CPU when idle", "idle_cpu_percent", "%"))
    text = figures(results, "route table", rows, (*idle, RATE, P50, P99, CPU[0], *FRAMES, INSTRUCTIONS))
    parts = [part for part in (text, _messages_of_routes(results), _balance(results), _memory(results)) if part]
    if not parts:
        return ""
    what = prose("One gateway process and replicas that run nothing, over real pipes; 64 connections.")
    return f"## Scale\n{what}\n" + "\n".join(parts)


def _messages_of_routes(results: Results) -> str:
    table = "scale_out/table"
    frames = number(results, f"{table}/replicas_1000/frames_per_message_in")
    alone, among = (number(results, f"{table}/{key}/instructions") for key in (ONE, f"{LARGE}_one_asked"))
    if frames is None or alone is None or among is None:
        return ""
    return prose(
        f"Of a request to one application Python executes {shown(alone)} instructions, gateway and replica together, "
        f"where it is alone in the table, and {shown(among)} where it is one of a hundred (counted in one process, as "
        "the guard does). What costs is that requests go to 1,000 pipes: with so few at each, a message carries "
        f"{shown(frames)} of them, be the replicas of one application or of a hundred."
    )


def _balance(results: Results) -> str:
    """How calls are spread over four replicas."""
    rows = [
        (what, f"scale_out/balance/{key}")
        for what, key in (
            ("10 to 30 ms, 64 connections", "equal"),
            ("10 to 30 ms, 256 connections", "equal_256_connections"),
            ("20 ms each, 64 connections", "steady"),
            ("one fails at once", "failing"),
        )
    ]
    columns = (
        Column("served: max/mean", "served_max_to_mean"),
        Column("in flight, averaged over time", "in_flight_max_to_mean"),
        Column("in flight, of a single look", "in_flight_max_to_mean_of_a_look"),
        Column("min–max", f"in_flight_max_to_mean_of_a_look{EACH}"),
        Column("… at best", "in_flight_max_to_mean_of_a_look_at_best"),
        Column("share of one that fails", "share_of_failing"),
    )
    text = figures(results, "four replicas", rows, columns)
    what = prose(
        "Calls in flight are the gateway's own count at each of four replicas, looked at each 5 ms. Averaged over "
        "time: the mean of each replica over all looks, then the largest of the four over their mean. Of a single "
        "look: the largest over the mean at that moment, averaged over looks; calls are whole, so n of them over four "
        "replicas cannot be more even than ⌈n/4⌉ to n/4, which is what stands under at best. The rest is chance: calls "
        "end when they end, and none can be moved. Where all take the same time those that left together come back "
        "together, and a look in between finds a replica without them."
    )
    return f"{what}\n{text}" if text else ""


def _memory(results: Results) -> str:
    kept = (
        ("memory of an idle connection", "memory/idle_connection_bytes", "bytes"),
        ("… off the line, of the whole rise", "memory/idle_connection_residual", ""),
        ("memory of a request in flight, with its connection", "memory/request_in_flight_bytes", "bytes"),
        ("… off the line, of the whole rise", "memory/request_in_flight_residual", ""),
        ("snapshot of 1,000 replicas, put in force", "apply/first_ms", "ms"),
        ("… again, with nothing changed", "apply/again_ms", "ms"),
    )
    rows = [
        (what, shown(number(results, f"scale_out/{path}"), unit), spread(results, f"scale_out/{path}{EACH}", unit))
        for what, path, unit in kept
    ]
    text = table(("", "measured", "min–max"), [row for row in rows if row[1] != NONE])
    return "\n".join(part for part in (text, _points(results)) if part)


def _points(results: Results) -> str:
    """How memory grows, point by point."""
    lines = []
    for what, key in (("idle connections", "idle_connection"), ("requests in flight", "request_in_flight")):
        points = look(results, f"scale_out/memory/{key}_points") or ()
        if points:
            told = ", ".join(f"{shown(rise / 1e6)} at {count:,}" for count, rise in points)
            lines.append(f"MB more than at the first, {what}: {told}.")
    return prose(" ".join(lines)) if lines else ""
