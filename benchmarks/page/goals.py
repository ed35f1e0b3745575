"""What is to be reached, and whether it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.page.tables import prose, table
from benchmarks.page.values import Results, look, number, shown


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure at `path` that is to be at least, or at most, a number, or that at another path."""

    what: str
    path: str
    least: float | None = None
    most: float | None = None
    most_at: str = ""
    unit: str = ""
    note: str = ""
    """What is to be known of it, below the table."""

    def row(self, results: Results) -> tuple[str, str, str, str] | None:
        """Return what, the goal, the figure and whether it is met; None if it was not measured."""
        value = number(results, self.path)
        most = number(results, self.most_at) if self.most_at else self.most
        if value is None or (self.least is None and most is None):
            return None
        bound, met = ("≥", value >= self.least) if self.least is not None else ("≤", value <= (most or 0.0))
        goal = f"{bound} {shown(self.least if self.least is not None else most, self.unit)}"
        return self.what, goal, shown(value, self.unit), "yes" if met else "**no**"


GOALS = (
    Goal("no-op JSON, 64 connections", "latest/noop_64_connections/per_second", least=15_000, unit="requests/s"),
    Goal("… with wrk as client", "latest/noop_64_connections_wrk/per_second", least=15_000, unit="requests/s"),
    Goal("1 connection, p50", "latest/noop_1_connections/p50_ms", most=0.4, unit="ms"),
    Goal("… p99", "latest/noop_1_connections/p99_ms", most=1.2, unit="ms"),
    Goal("1,024 connections, of the rate at 64", "latest/noop_1024_connections/ratio_to_64_connections", least=0.9),
    Goal("… p99 over p50", "latest/noop_1024_connections/p99_to_p50", most=3.0),
    Goal("refusals only", "latest/shed_only_64_connections/per_second", least=20_000, unit="refusals/s"),
    Goal("… p99", "latest/shed_only_64_connections/p99_ms", most=10.0, unit="ms"),
    Goal("2 × overload, goodput of peak", "latest/overload_2x/goodput_of_peak", least=0.98),
    Goal(
        "… p99 of what is admitted: queue budget + 2 × p99 at 70 % load",
        "latest/overload_2x/admitted/p99_ms",
        most_at="latest/overload_2x/admitted_p99_ms_bound",
        unit="ms",
    ),
    Goal("10 × overload, goodput of peak", "latest/overload_10x/goodput_of_peak", least=0.95),
    Goal(
        "… p99 of what is admitted: the same",
        "latest/overload_10x/admitted/p99_ms",
        most_at="latest/overload_10x/admitted_p99_ms_bound",
        unit="ms",
    ),
    Goal("10 MB to user code", "latest/body_10mb_up/mb_per_second", least=500, unit="MB/s"),
    Goal("10 MB from user code", "latest/body_10mb_down/mb_per_second", least=500, unit="MB/s"),
    Goal(
        "p99 of small requests beside 10 MB up, over alone", "latest/small_beside_10mb/beside_up/p99_to_alone", most=3
    ),
    Goal("… beside 10 MB down", "latest/small_beside_10mb/beside_down/p99_to_alone", most=3),
    Goal("server-sent events", "latest/sse_50_chunks/chunks_per_second", least=60_000, unit="chunks/s"),
    Goal("gRPC unary, of a plain server called directly", "latest/grpc_unary/ratio_to_plain", least=0.8),
    Goal("gRPC bidi messages, one at a time, of the same", "latest/grpc_bidi/ratio_to_plain", least=1.0),
    Goal("… 16 on their way", "latest/grpc_bidi_16_ahead/ratio_to_plain", least=1.0),
    Goal(
        "rate with access log and scrapes, of that without",
        "latest/watched/ratio_to_unwatched",
        least=0.9,
        note="Access log and scrapes: requests are counted in both, as that cannot be switched off; what "
        "counting costs is watched by the guard, which compares it with its baseline.",
    ),
    Goal("… CPU of a request", "latest/watched/cpu_to_unwatched", most=1.1),
    Goal(
        "changed limit served by 50 gateways, p99",
        "control_plane/other_max_ongoing_requests/served_by_all_p99_ms",
        most=100,
        unit="ms",
    ),
    Goal(
        "1,000 replicas known after a kill -9 of the control plane",
        "control_plane/kill_and_start_again/known_by_all_gateways_s",
        most=5,
        unit="s",
    ),
    Goal("memory of an idle connection", "scale_out/memory/idle_connection_bytes", most=32_768, unit="bytes"),
    Goal(
        "1,000 replicas in the table: CPU of a request, over 10", "scale_out/table/applications_100/cpu_to_1", most=1.1
    ),
    Goal("four equal replicas: max/mean served", "scale_out/balance/equal/served_max_to_mean", most=1.1),
    Goal(
        "… max/mean in flight, averaged over time",
        "scale_out/balance/equal/in_flight_max_to_mean",
        most=1.1,
        note="In flight, averaged over time: the mean of each replica's calls in flight over the run; of these "
        "four, the largest over their mean. Single looks are under Scale.",
    ),
    Goal("one of four fails at once: its calls, over a quarter", "scale_out/balance/failing/share_to_equal", most=1.1),
    Goal("`meshctl run` to the first 200", "latest/start_to_first_200_s", most=1.5, unit="s"),
    Goal("the whole system resident", "latest/resident_mb", most=180, unit="MB"),
    Goal("installed, with all it needs", "latest/installed/mb", most=100, unit="MB"),
)


def rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Return a row for each goal that was measured: ours, then those beside peers."""
    peers = look(results, "peers/peers") or {}
    beside = [
        Goal(
            f"rate at 64 connections, of {peer['what']}", f"peers/peers/{name}/connections_64/ratio", least=peer["goal"]
        )
        for name, peer in peers.items()
        if "goal" in peer
    ]
    return [row for goal in (*GOALS, *beside) if (row := goal.row(results)) is not None]


def goals(results: Results) -> str:
    """Return the table of goals, and the notes on them."""
    noted = [prose(goal.note) for goal in GOALS if goal.note and goal.row(results) is not None]
    return "\n".join(part for part in (table(("", "goal", "measured", "met"), rows(results)), *noted) if part)
