from __future__ import annotations

import json

from mesh.cli.output import Style
from mesh.cli.output_workers import drained, workers
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

NOW = 1_700_000_000.0
TABLE = Style(now=NOW)
READY = pb.WorkerStatus(
    worker_id="w1",
    state=pb.WORKER_STATE_READY,
    host="127.0.0.1",
    replicas=1,
    resources=pb.Resources(cpus=2, memory_bytes=3 * 2**30, max_replicas=100),
    last_seen=NOW - 1,
)
DRAINING = pb.WorkerStatus(worker_id="w2", state=pb.WORKER_STATE_DRAINING, replicas=2, message="2 replicas are left")


def test_workers_table() -> None:
    assert workers(api.ListWorkersResponse(workers=[READY, DRAINING]), TABLE) == (
        "WORKER   STATE      HOST        REPLICAS   CPUS   MEMORY    LAST SEEN   MESSAGE\n"
        "w1       READY      127.0.0.1   1/100      2      3.0 GiB   1s ago\n"
        "w2       DRAINING               2/0        0      0.0 GiB   never       2 replicas are left\n"
    )
    assert workers(api.ListWorkersResponse(), TABLE) == "no workers\n"


def test_a_worker_that_was_drained() -> None:
    assert drained("w2", DRAINING, TABLE).splitlines()[1].split()[:2] == ["w2", "DRAINING"]
    assert drained("w2", None, TABLE) == "w2 has gone\n"
    assert json.loads(drained("w2", DRAINING, Style("json")))["state"] == "DRAINING"
    assert json.loads(drained("w2", None, Style("json"))) == {"worker_id": "w2", "state": "GONE"}
