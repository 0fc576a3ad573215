"""Who is faster: how the benchmarks here measure.

One thread on one core. Every contestant runs in a process of its own, turn by turn, so that a busy
machine hurts all alike; the table has medians of CPU time, and ratios: above 1 is faster than the
named base in the same run. Memory is the peak over what the process held before the first run.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def tensorflow():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def noise(*shape):
    import numpy as np

    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def main(
    script: str,
    contestants: dict[str, dict[str, Callable]],
    rounds: dict[str, int],
    base: Callable[[str, str], str],
    remarks: Callable[[str, dict[str, float]], list[str]],
) -> None:
    """Runs the items named on the command line, or all.

    Args:
        script: the file that calls this, started again for every contestant.
        contestants: of each item, by name: makes what is measured, a function without arguments.
        rounds: of each item, runs that the median is of.
        base: item and name of a contestant -> the name of the one it is compared with.
        remarks: item and median seconds by name -> lines below the table.
    """
    if sys.argv[1:2] == ["--work"]:
        _work(contestants[sys.argv[2]][sys.argv[3]])
        return
    for item in sys.argv[1:] or contestants:
        _compare(script, item, list(contestants[item]), rounds[item], base, remarks)


def _work(make: Callable) -> None:
    """A contestant: runs once for every line it is sent."""
    run = make()
    before = _peak_megabytes()
    start = time.perf_counter()
    run()
    print(json.dumps({"first": time.perf_counter() - start}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        seconds = time.process_time() - start
        print(json.dumps({"cpu": seconds, "memory": _peak_megabytes() - before}), flush=True)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _compare(script, item, names, rounds, base, remarks) -> None:
    core = str(max(os.sched_getaffinity(0)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    workers, first = {}, {}
    for name in names:
        command = ["taskset", "-c", core, sys.executable, script, "--work", item, name]
        workers[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        line = workers[name].stdout.readline()
        if not line:
            print(f"{item}: {name} does not run here; expected pip install -e '.[benchmark]'")
            del workers[name]
            continue
        first[name] = json.loads(line)["first"]
    runs = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("run\n")
            worker.stdin.flush()
            runs[name].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.kill()
    seconds = {name: statistics.median(run["cpu"] for run in found) for name, found in runs.items()}
    print(f"\n{item:<34} CPU s   ratio   first s   memory MB")
    for name, value in seconds.items():
        against = base(item, name)
        ratio = f"{seconds[against] / value:.2f}" if against in seconds else "-"
        memory = runs[name][-1]["memory"]
        print(f"{name:<34}{value:6.3f} {ratio:>7} {first[name]:>9.1f} {memory:>11.0f}")
    for line in remarks(item, seconds):
        print(line)
