"""What is to be reached, and whether it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.page.derived import FEW
from benchmarks.page.tables import EACH, prose, table
from benchmarks.page.values import Results, look, number, shown, spread


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
    own: bool = False
    """Whether the bound is one of ours, beside the list of figures to reach."""
    values_at: str = ""
    """Of how many values it is p99."""

    def met(self, results: Results) -> bool | None:
        """Tell whether it is met; None if it was not measured."""
        value, bound = number(results, self.path), self._bound(results)
        if value is None or bound is None:
            return None
        return value >= bound if self.least is not None else value <= bound

    def row(self, results: Results) -> tuple[str, str, str, str, str] | None:
        """Return what, the goal, the figure, its range over runs and whether it is met; None if not measured."""
        met, bound = self.met(results), self._bound(results)
        if met is None:
            return None
        goal = f"{'≤' if self.least is None else '≥'} {shown(bound, self.unit)}"
        measured = shown(number(results, self.path), self.unit)
        return self.name(results), goal, measured, spread(results, f"{self.path}{EACH}"), "yes" if met else "**no**"

    def name(self, results: Results) -> str:
        """Return what it is of."""
        values = number(results, self.values_at) if self.values_at else None
        of = "" if not self.values_at else ", p99" if values is None or values >= FEW else f", slowest of {values:.0f}"
        return f"{self.what}{of}{' †' if self.own else ''}"

    def _bound(self, results: Results) -> float | None:
        if self.least is not None:
            return self.least
        return number(results, self.most_at) if self.most_at else self.most


def _control(key: str, what: str) -> Goal:
    return Goal(
        f"{what} received by 50 gateways",
        f"control_plane/{key}/served_by_all_p99_ms",
        most=100,
        unit="ms",
        values_at=f"control_plane/{key}/changes",
    )


GOALS = (
    Goal("no-op JSON, 64 connections", "latest/noop_64_connections/per_second", least=15_000, unit="requests/s"),
    Goal(
        "… with wrk as client", "latest/noop_64_connections_wrk/per_second", least=15_000, unit="requests/s", own=True
    ),
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
    Goal(
        "server-sent events, chunks on the wire while user code waits between two",
        "latest/sse_50_chunks/http_chunks_per_second",
        least=60_000,
        unit="chunks/s",
    ),
    Goal(
        "… events, where those that wait for the same write leave as one",
        "latest/sse_50_chunks_in_turn/events_per_second",
        least=60_000,
        unit="events/s",
        own=True,
    ),
    Goal("gRPC unary, of a plain server called directly", "latest/grpc_unary/ratio_to_plain", least=0.8),
    Goal("gRPC bidi messages, one at a time, of the same", "latest/grpc_bidi/ratio_to_plain", least=1.0),
    Goal("… 16 on their way", "latest/grpc_bidi_16_ahead/ratio_to_plain", least=1.0),
    Goal(
        "CPU of a request with metrics, access log and a scrape each second, of that with none of it",
        "latest/watched/cpu_to_uncounted",
        most=1.1,
        note="Without metrics: the benchmark puts something that does nothing in the place of what counts; the product "
        "has no such switch.",
    ),
    Goal("… requests/s, of those with none of it", "latest/watched/ratio_to_uncounted", least=0.9),
    _control("other_max_ongoing_requests", "another `max_ongoing_requests`"),
    _control("other_num_replicas", "another `num_replicas`"),
    _control("other_code", "other code"),
    _control("changes_20_per_second", "one of 20 changes a second"),
    Goal(
        "1,000 replicas known after a kill -9 of the control plane, which is started again",
        "control_plane/kill_and_start_again/known_by_all_gateways_s",
        most=5,
        unit="s",
    ),
    Goal(
        "… and a standby takes over",
        "control_plane/kill_with_a_standby/known_by_all_gateways_s",
        most=5,
        unit="s",
    ),
    Goal("memory of an idle connection", "scale_out/memory/idle_connection_bytes", most=32_768, unit="bytes", own=True),
    Goal(
        "1,000 replicas of 100 applications in the table, one is asked: CPU of a request, over a table of it alone",
        "scale_out/table/applications_100_one_asked/cpu_to_applications_1",
        most=1.1,
        own=True,
    ),
    Goal(
        "… all 100 are asked: over as many replicas of one",
        "scale_out/table/applications_100/cpu_to_replicas_1000",
        most=1.1,
        own=True,
    ),
    Goal(
        "… over ten replicas",
        "scale_out/table/applications_100/cpu_to_applications_1",
        most=1.1,
        own=True,
        note="Over ten replicas: 64 requests at a time over 1,000 pipes are hardly ever two at one of them, so each is "
        "a message of its own, both ways; over ten pipes some share one. Frames per message are under Scale.",
    ),
    Goal("four equal replicas: max/mean served", "scale_out/balance/equal/served_max_to_mean", most=1.1, own=True),
    Goal(
        "… max/mean in flight, averaged over time",
        "scale_out/balance/equal/in_flight_max_to_mean",
        most=1.1,
        note="In flight, averaged over time: the mean of each replica's calls in flight over the run; of these "
        "four, the largest over their mean. Of a single look: the largest over the mean at that moment, averaged "
        "over all looks.",
    ),
    Goal(
        "… of a single look, averaged over looks", "scale_out/balance/equal/in_flight_max_to_mean_of_a_look", most=1.1
    ),
    Goal(
        "one of four fails at once: its calls, over a quarter",
        "scale_out/balance/failing/share_to_equal",
        most=1.1,
        own=True,
    ),
    Goal("`meshctl run` to the first 200", "latest/start_to_first_200_s", most=1.5, unit="s"),
    Goal("the whole system resident", "latest/resident_mb", most=180, unit="MB"),
    Goal("installed, with all it needs and the byte code that pip writes", "derived/installed/mb", most=100, unit="MB"),
)
OWN = "† A bound that we set ourselves, beside the list of figures that were to be reached."
HEAD = ("", "goal", "measured", "min–max", "met")


def every(results: Results) -> list[Goal]:
    """Return all goals: ours, then those beside peers."""
    peers = look(results, "peers/peers") or {}
    beside = (
        Goal(
            f"rate at 64 connections, of {peer.get('label', peer['what'])}",
            f"peers/peers/{name}/connections_64/ratio",
            least=peer["goal"],
        )
        for name, peer in peers.items()
        if "goal" in peer
    )
    return [*GOALS, *beside]


def rows(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Return a row for each goal that was measured."""
    return [row for goal in every(results) if (row := goal.row(results)) is not None]


def missed(results: Results) -> list[tuple[str, str]]:
    """Return path and name of each goal that is not met."""
    return [(goal.path, goal.name(results)) for goal in every(results) if goal.met(results) is False]


def goals(results: Results) -> str:
    """Return the table of goals, and the notes on them."""
    told = [goal for goal in every(results) if goal.row(results) is not None]
    notes = [goal.note for goal in told if goal.note] + [OWN] * any(goal.own for goal in told)
    return "\n".join(part for part in (table(HEAD, rows(results)), *map(prose, notes)) if part)
