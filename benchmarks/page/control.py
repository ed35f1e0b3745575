"""The sections on the control plane, and on replicas that come up. Pure."""

from __future__ import annotations

from benchmarks.page.derived import FEW
from benchmarks.page.tables import EACH, prose, sentence, table
from benchmarks.page.values import NONE, Results, look, number, shown, spread

CHANGES = {
    "other_max_ongoing_requests": "another `max_ongoing_requests`",
    "other_num_replicas": "another `num_replicas`",
    "other_code": "other code",
    "changes_20_per_second": "20 changes a second",
}


def control_plane(results: Results) -> str:
    """Changes on their way to gateways."""
    rows = []
    for key, what in CHANGES.items():
        at = f"control_plane/{key}"
        if look(results, at) is None:
            continue
        changes, p99 = number(results, f"{at}/changes"), number(results, f"{at}/served_by_all_p99_ms")
        few = changes is not None and changes < FEW
        most = number(results, f"{at}/served_by_all_max_ms")
        slowest = p99 if most is None and few else most
        times = ("accepted_p50_ms", "served_by_first_p50_ms", "served_by_all_p50_ms")
        rows.append(
            (
                what,
                shown(changes),
                *(shown(number(results, f"{at}/{key}"), "ms") for key in times),
                NONE if few else shown(p99, "ms"),
                shown(slowest, "ms"),
                shown(number(results, f"{at}/control_plane_cpu_ms_per_change"), "ms"),
            )
        )
    received = ("received by the first p50", "by all p50", "p99", "slowest")
    text = table(("a change", "changes", "accepted p50", *received, "control plane's CPU"), rows)
    kept = (
        ("deploy of 200 applications, received by all", "deploy_of_200_applications/served_by_all_s", "s"),
        ("snapshot", "snapshot/bytes", "bytes"),
        ("… to a new gateway", "snapshot/to_one_new_gateway_ms", "ms"),
        ("… to 50 at once", "snapshot/to_50_at_once_ms", "ms"),
        ("kill -9 and start again: known by all gateways", "kill_and_start_again/known_by_all_gateways_s", "s"),
        ("… its workers are back, the slowest", "kill_and_start_again/all_workers_back_s_max", "s"),
        ("kill -9 with a standby: known by all gateways", "kill_with_a_standby/known_by_all_gateways_s", "s"),
        ("… its workers are back, the slowest", "kill_with_a_standby/all_workers_back_s_max", "s"),
        ("CPU when idle", "idle/control_plane_cpu_percent", "%"),
        ("resident", "idle/control_plane_resident_mb", "MB"),
    )
    others = [
        (what, shown(number(results, f"control_plane/{path}"), unit), spread(results, f"control_plane/{path}{EACH}"))
        for what, path, unit in kept
    ]
    text += "\n" + table(("", "measured", "min–max"), [row for row in others if row[1] != NONE])
    what = look(results, "control_plane/what")
    if not (what and text.strip()):
        return ""
    about = prose(
        f"{sentence(what)}, on a real etcd. Gateways are streams with nothing behind them, and workers sessions whose "
        "replicas are ready at once: received is when a gateway has it in hand. What a real one does to route by it is "
        "not in that, but under Scale: a snapshot put in force. "
        "Times count from the answer to `deploy`. Of fewer than a hundred changes the slowest is told, and no p99."
    )
    return f"## Control plane\n{about}\n{text}"


def replicas(results: Results) -> str:
    """One replica, and thirty that come up at once."""
    rows = []
    for what, key in (("one", "one_replica"), ("thirty, deployed at once", "thirty_replicas")):
        found = look(results, f"replicas/{key}")
        if found is None:
            continue
        start = number(found, "start_s") or number(found, "start_s_each")
        values = ((number(found, "deploy_s"), "s"), (start, "s"), (number(found, "cpu_s_each"), "s"))
        sizes = ((number(found, each), "MB") for each in ("resident_mb", "unique_mb"))
        rows.append((what, *(shown(value, unit) for value, unit in (*values, *sizes))))
    head = ("replicas", "deploy, until served", "start of each", "CPU of each start", "resident, each", "… not shared")
    text = table(head, rows)
    what = "`meshctl start` with replicas that do nothing; start is from launched to ready, as their worker logs it."
    return f"## Replicas that come up\n{prose(what)}\n{text}" if text else ""
