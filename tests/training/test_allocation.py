import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np
from sepssl.training.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
    keep_freed_memory()
np.ones(8_000_000)  # 64 MB, 15,625 pages
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_used_again():
    """Pages that the kernel must bring in again for arrays as large as those freed before."""
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", _PROGRAM, mode]))
        for mode in ("given back", "kept")
    }
    assert faults["kept"] < 100
    assert faults["given back"] > 100  # where this fails, the function is no longer of use
