"""Puts sampled stacks into the parts of a request: pure.

A stack is what py-spy writes in its raw format: frames from the root to the leaf, `name (file:line)`, Python's and
native ones mixed. The part of a stack is that of the first frame, from the leaf up, that the table knows: what C code
of no part of its own (libc, the interpreter) spends is spent by who called it. Used by `benchmarks.profile`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

HTTP_SERVER = "HTTP server (granian)"
ASGI = "ASGI glue"
ROUTING = "routing"
ADMISSION = "admission and balancing"
PIPE = "pipe"
PROTOBUF = "protobuf"
GRPC = "gRPC (Cython and core)"
LOOP = "event loop (uvloop, tasks, futures)"
METRICS = "metrics"
ACCESS_LOG = "access log"
HANDLER = "handler"
USER = "user call"
CONTROL = "control plane and worker agent"
COLLECTOR = "garbage collector"
OTHER = "other"

PARTS = {
    HTTP_SERVER: "parses HTTP, writes answers, its own threads included",
    ASGI: "heads, headers, the answer's status and body, deadline, client that leaves (mesh/gateway)",
    ROUTING: "the application and method of a path",
    ADMISSION: "slot or line or shed, the choice of a replica; the replica's own slots",
    PIPE: "calls and frames, writer and reader",
    PROTOBUF: "fields set and read, messages encoded and decoded, wherever that is",
    GRPC: "grpc.aio in Python and Cython, gRPC's core, its threads",
    LOOP: "uvloop, libuv, asyncio's tasks and futures",
    METRICS: "counts and histograms",
    ACCESS_LOG: "a line for each request",
    HANDLER: "between the pipe and user code (mesh/worker)",
    USER: "user code, the Request that it gets and the answer made of what it returns",
    CONTROL: "what else runs in the process of `meshctl run`",
    COLLECTOR: "Python's search for cycles, wherever it strikes",
    OTHER: "what no row above knows",
}
"""Each part, in the order of tables, and what it is."""

_COLLECTING = re.compile(r"^(gc_collect|collect_with_callback|gc_alloc_collect)")

_TABLE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"/granian/", HTTP_SERVER),
        (r"/grpc/", GRPC),
        (r"/google/(_upb|protobuf)/", PROTOBUF),
        (r"/mesh/v1/", PROTOBUF),
        (r"/uvloop/|/libuv|_asynciomodule|/asyncio/|/_asyncio\.|_weakrefset", LOOP),
        (r"/logging/|/mesh/access_log|\blog \(.*/mesh/gateway/traffic", ACCESS_LOG),
        (r"/prometheus_client/|/mesh/telemetry|/mesh/(gateway|pipe|worker)/(traffic|metrics)", METRICS),
        (r"/mesh/gateway/(routes|pipeline|rest_table|services)\.py|/mesh/transcode/router", ROUTING),
        (r"/mesh/pipe/(admission|affinity|balance|dispatch|retry|slots)\.py", ADMISSION),
        (r"/mesh/pipe/", PIPE),
        (r"/mesh/gateway/", ASGI),
        (r"/starlette/|/benchmarks/|/mesh/worker/user_code\.py|/mesh/serving/", USER),
        (r"/mesh/worker/(agent|session|supervisor|running|process|builds|watchdog|logs/|environments/)", CONTROL),
        (r"/mesh/worker/", HANDLER),
        (r"/mesh/(controlplane|cli)/", CONTROL),
    )
)

_THREADS = (
    ("granian", HTTP_SERVER),
    ("tokio", HTTP_SERVER),
    ("grpc", GRPC),
    ("event_engine", GRPC),
    ("lifeguard", GRPC),
)
"""Threads without a frame of Python, by how their name begins."""

_SYSTEM_CALLS = frozenset(
    (
        *("epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "poll", "ppoll", "select", "pselect", "nanosleep"),
        *("clock_nanosleep", "waitid", "wait4", "waitpid", "accept", "accept4", "close", "syscall", "sched_yield"),
        *("read", "readv", "pread64", "recv", "recvfrom", "recvmsg", "write", "writev", "send", "sendto", "sendmsg"),
        *("pthread_cond_wait", "pthread_cond_timedwait", "pthread_cond_clockwait", "pthread_cond_signal"),
        *("pthread_cond_broadcast", "sem_wait", "sem_timedwait", "sem_clockwait", "sem_post", "pthread_mutex_lock"),
        *("PyThread_acquire_lock_timed", "take_gil", "mmap", "munmap", "madvise", "brk"),
    )
)
"""Calls whose time is the kernel's."""

_THREAD = re.compile(r"^thread \((\d+)\)")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of one thread and how often it was seen; frames from the root to the leaf."""

    thread: int
    frames: tuple[str, ...]
    count: int


def parse(raw: str) -> list[Stack]:
    """Return the stacks of py-spy's raw format, taken with `--threads`; lines of another form are left out."""
    stacks = []
    for line in raw.splitlines():
        joined, _, count = line.rpartition(" ")
        first, *frames = joined.split(";")
        thread = _THREAD.match(first)
        if thread is not None and count.isdigit():
            stacks.append(Stack(int(thread[1]), tuple(frames), int(count)))
    return stacks


def part_of(frames: tuple[str, ...]) -> str:
    """Return the part of a stack."""
    if any(_COLLECTING.match(frame) for frame in frames):
        return COLLECTOR
    return next((part for part in map(_part_of_frame, reversed(frames)) if part is not None), OTHER)


def part_of_thread(name: str, nameless: str) -> str:
    """Return the part of a thread that runs no Python: `nameless`, if its name is only that of its process."""
    return next((part for start, part in _THREADS if name.startswith(start)), nameless)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU of a thread, in any unit, in its own code and in the kernel."""

    user: float = 0.0
    system: float = 0.0

    @property
    def all(self) -> float:
        """Both."""
        return self.user + self.system


@dataclass(frozen=True, slots=True)
class Portion:
    """CPU of a part, in the unit of what is shared out, and its standard error, for samples are few."""

    us: float
    error_us: float


def spent(
    stacks: Iterable[Stack], cpu: Mapping[int, Spent], names: Mapping[int, str], nameless: str = OTHER
) -> dict[str, Portion]:
    """Share out the CPU of threads.

    A sampler takes threads that could run for running ones, and some that sleep: it sees too much of system calls,
    where threads lose their processor. So a thread's time in its own code is shared out by the stacks that end in such,
    and its time in the kernel by those that end in system calls.

    Args:
        stacks: what was sampled.
        cpu: of each thread, by its id.
        names: of threads, for those that never run Python.
        nameless: the part of threads that never run Python and have no name of their own.

    Returns:
        The CPU of each part that has any, in the order of `PARTS`, in the unit of `cpu`; the sum is that of `cpu`.
    """
    seen: dict[tuple[int, bool], Counter[str]] = {}
    for stack in stacks:
        seen.setdefault((stack.thread, in_kernel(stack.frames)), Counter())[part_of(stack.frames)] += stack.count
    result = dict.fromkeys(PARTS, 0.0)
    variance = dict.fromkeys(PARTS, 0.0)
    for thread, used in cpu.items():
        by_name = Counter({part_of_thread(names.get(thread, ""), nameless): 1})
        for kernel, time in ((False, used.user), (True, used.system)):
            parts = seen.get((thread, kernel)) or seen.get((thread, not kernel)) or by_name
            total = parts.total()
            for part, count in parts.items():
                share = count / total
                result[part] += time * share
                variance[part] += time * time * share * (1 - share) / total
    return {part: Portion(time, math.sqrt(variance[part])) for part, time in result.items() if time > 0}


def in_kernel(frames: tuple[str, ...]) -> bool:
    """Whether a stack ends in a system call. Frames of a libc without symbols have no name: passed over."""
    for frame in reversed(frames):
        if not frame.startswith("0x"):
            return frame.partition(" ")[0] in _SYSTEM_CALLS
        if "/libc.so" not in frame and "/libpthread" not in frame:
            return False
    return not frames


@lru_cache(maxsize=10_000)
def _part_of_frame(frame: str) -> str | None:
    return next((part for pattern, part in _TABLE if pattern.search(frame)), None)
