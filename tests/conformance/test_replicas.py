"""One process for all: a failed collective operation would poison later ones."""

import json
import pathlib

from learners import LEARNERS

SCRIPT = pathlib.Path(__file__).with_name("replicas.py")


def test_two_replicas_compute_what_one_does(forks):
    process = forks.run(SCRIPT, path=[SCRIPT.parent])
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    assert len(found["apart"]) == 2 + len(LEARNERS)
    assert {name: value for name, value in found["apart"].items() if not value < 1e-4} == {}
    # The scale doubles after two finite steps; an overflow halves it and changes no weight.
    assert found["float16"] == {
        "scales": [1024.0, 1024.0, 2.0**60, 512.0],
        "skipped": [0.0, 0.0, 1.0, 0.0],
        "after": [[1024.0, 2048.0, 2.0**59, 512.0], [1.0, 0.0, 0.0, 1.0]],
        "alone": True,
    }
    assert found["float16 apart"] < 0.02  # of losses near 2.4, and weights after steps of 0.1
