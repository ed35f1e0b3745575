"""What `lifecycle.tune_memory` spares a process, counted by the kernel in a process of its own."""

from __future__ import annotations

import subprocess
import sys

COUNT = """
import resource
from mesh import lifecycle
{tune}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    for size in (300_000, 1_000_000, 2_000_000):
        kept = [bytearray(b"x") * size for _ in range(2)]
use()
before = faults()
for _ in range(20):
    use()
print(faults() - before)
"""


def test_freed_memory_is_used_again() -> None:
    before, after = (
        int(subprocess.check_output([sys.executable, "-c", COUNT.format(tune=tune)], text=True))
        for tune in ("", "lifecycle.tune_memory()")
    )
    assert after < 100 < before
