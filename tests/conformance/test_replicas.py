"""One process for all: a failed collective operation would poison later ones."""

import json
import pathlib

SCRIPT = pathlib.Path(__file__).with_name("replicas.py")


def test_two_replicas_compute_what_one_does(forks):
    process = forks.run(SCRIPT, path=[SCRIPT.parent])
    assert process.returncode == 0, process.stderr[-3000:]
    apart = json.loads(process.stdout.splitlines()[-1])
    assert len(apart) == 5
    assert {name: value for name, value in apart.items() if not value < 1e-4} == {}
