"""One process for all: a failed collective operation would poison later ones."""

import json
import pathlib

import pytest
from learners import LEARNERS

SCRIPT = pathlib.Path(__file__).with_name("replicas.py")


def replicas(forks, *names):
    process = forks.run(SCRIPT, *names, path=[SCRIPT.parent])
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_two_replicas_compute_what_one_does(forks):
    """Of the learners one; the encoder's is trained on two by tests/training/test_loop.py."""
    names = ("GlobalBatchNorm", "ProjectionHead", "SeparatorLearner", "validation")
    apart = replicas(forks, *names)["apart"]
    assert sorted(apart) == sorted(names)
    assert {name: value for name, value in apart.items() if not value < 1e-4} == {}


@pytest.mark.slow
def test_so_does_every_learner_and_float16(forks):
    found = replicas(forks)
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
