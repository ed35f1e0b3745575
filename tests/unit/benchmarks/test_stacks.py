"""Sampled stacks are put into parts, and the CPU of threads is shared out by them."""

from __future__ import annotations

import pytest

from benchmarks import stacks

SITE = "/usr/lib/python3.11/site-packages"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
PYTHON = "/usr/lib/libpython3.11.so.1.0"
ROOT = (
    "main (/srv/mesh/cli/__main__.py:13)",
    "run (/srv/mesh/lifecycle.py:115)",
    "run_forever (/project/uvloop/loop.c:1)",
)
FRONT = (*ROOT, "HttpFront._serve (/srv/mesh/gateway/http_front.py:102)")


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        (FRONT, stacks.ASGI),
        ((*FRONT, f"0x7f00 ({LIBC})"), stacks.ASGI),
        ((*FRONT, "Pipeline.route (/srv/mesh/gateway/pipeline.py:76)"), stacks.ROUTING),
        ((*FRONT, "Balance.acquire (/srv/mesh/pipe/balance.py:62)"), stacks.ADMISSION),
        ((*FRONT, "Call.__init__ (/srv/mesh/pipe/call.py:40)", f"PyObject_Malloc ({PYTHON})"), stacks.PIPE),
        ((*FRONT, f"0x7f01 ({SITE}/google/_upb/_message.abi3.so)"), stacks.PROTOBUF),
        ((*FRONT, f"0x7f02 ({SITE}/granian/_granian.so)", f"write ({LIBC})"), stacks.HTTP_SERVER),
        ((*FRONT, "Traffic.count (/srv/mesh/gateway/traffic.py:36)"), stacks.METRICS),
        ((*FRONT, "Traffic.log (/srv/mesh/gateway/traffic.py:50)"), stacks.ACCESS_LOG),
        ((*ROOT, "AccessLog.flush (/srv/mesh/access_log.py:81)"), stacks.ACCESS_LOG),
        ((*ROOT, "Codec.decode (/srv/mesh/pipe/codec.py:113)"), stacks.PIPE),
        (
            (*ROOT, "_write (/x/grpc/aio/_call.py:486)", "0x7f03 (/x/grpc/_cython/cygrpc.so)", f"free ({LIBC})"),
            stacks.GRPC,
        ),
        ((*ROOT, "task_step_impl (/build/Modules/_asynciomodule.c:2704)"), stacks.LOOP),
        ((*FRONT, f"gc_collect_main ({PYTHON})", f"0x7f04 ({SITE}/google/_upb/_message.abi3.so)"), stacks.COLLECTOR),
        (("Handler._serve_async (/srv/mesh/worker/handler.py:73)",), stacks.HANDLER),
        (("Handler._serve_async (/srv/mesh/worker/handler.py:73)", "Noop (/srv/benchmarks/noop.py:13)"), stacks.USER),
        (("Supervisor.look (/srv/mesh/worker/supervisor.py:73)",), stacks.CONTROL),
        (("Thread.run (/lib/threading.py:971)",), stacks.OTHER),
        ((), stacks.OTHER),
    ],
)
def test_the_first_frame_that_is_known_from_the_leaf_up_tells_the_part(frames: tuple[str, ...], part: str) -> None:
    assert stacks.part_of(frames) == part
    assert part in stacks.PARTS


@pytest.mark.parametrize(
    ("leaf", "in_kernel"),
    [
        ((f"epoll_wait ({LIBC})",), True),
        ((f"PyThread_acquire_lock_timed ({PYTHON})", f"0x7f00 ({LIBC})", f"0x7f01 ({LIBC})"), True),
        ((f"sched_yield ({LIBC})",), True),
        ((f"sendmsg ({LIBC})",), True),
        ((f"free ({LIBC})", f"0x7f01 ({LIBC})"), False),
        ((f"0x7f02 ({SITE}/granian/_granian.so)", f"0x7f01 ({LIBC})"), False),
    ],
)
def test_what_ends_in_a_system_call_is_the_kernels(leaf: tuple[str, ...], in_kernel: bool) -> None:
    assert stacks.in_kernel((*ROOT, *leaf)) == in_kernel


def test_the_raw_format_is_read_and_what_is_no_stack_is_left_out() -> None:
    raw = "thread (12): MainThread;f (/a.py:1);g (/b c.py:2) 3\nthread (7);0x1 (/x.so) 1\n\nno thread;f (/a.py:1) 2\n"
    assert stacks.parse(raw) == [
        stacks.Stack(12, ("f (/a.py:1)", "g (/b c.py:2)"), 3),
        stacks.Stack(7, ("0x1 (/x.so)",), 1),
    ]


def test_the_cpu_of_each_thread_is_shared_out_by_what_it_was_seen_to_run_and_to_call() -> None:
    wake = (*FRONT, f"0x7f02 ({SITE}/granian/_granian.so)", f"write ({LIBC})")
    seen = [
        stacks.Stack(1, FRONT, 3),
        stacks.Stack(1, (*FRONT, "Pipeline.route (/srv/mesh/gateway/pipeline.py:76)"), 1),
        stacks.Stack(1, (*ROOT, f"epoll_pwait ({LIBC})"), 75),
        stacks.Stack(1, wake, 25),
        stacks.Stack(2, (f"0x1 ({SITE}/granian/_granian.so)", f"epoll_wait ({LIBC})"), 5),
        stacks.Stack(9, ("f (/a.py:1)",), 50),
    ]
    cpu = {
        1: stacks.Spent(40.0, 8.0),
        2: stacks.Spent(6.0, 4.0),
        3: stacks.Spent(5.0, 0.0),
        4: stacks.Spent(0.0, 2.0),
        5: stacks.Spent(),
    }
    portions = stacks.spent(seen, cpu, {3: "event_engine", 4: "meshctl"}, nameless=stacks.HTTP_SERVER)
    spent = {part: portion.us for part, portion in portions.items()}
    assert spent == {
        stacks.HTTP_SERVER: 14.0,
        stacks.ASGI: 30.0,
        stacks.ROUTING: 10.0,
        stacks.GRPC: 5.0,
        stacks.LOOP: 6.0,
    }
    assert sum(spent.values()) == sum(used.all for used in cpu.values())
    # A quarter of four samples of 40, beside three quarters of them: 40 * sqrt(1/4 * 3/4 / 4).
    assert portions[stacks.ROUTING].error_us == pytest.approx(8.66, abs=0.01)
    assert portions[stacks.GRPC].error_us == 0.0
