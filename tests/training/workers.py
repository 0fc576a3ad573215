"""Trains a separator on two worker processes, or alone; prints what came of it.

    python workers.py FOLDER [--workers=N] [--signal-at=STEP]

Runs go to FOLDER/N. Prints one JSON line: losses, weights, and which clips each process has read.
With --signal-at, the second gets a SIGTERM; both lines then tell how they ended.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import sys

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--workers", type=int, default=1)
parser.add_argument("--signal-at", type=int)
arguments = parser.parse_args()
index, child = 0, None
if arguments.workers > 1:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    child = os.fork()  # before TensorFlow has started anything
    index = int((child == 0) == (arguments.signal_at is None))  # who ends last
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from sepssl.errors import InputError, WorkerLost  # noqa: E402
from sepssl.separation import TDCN, Separator, STFTBasis  # noqa: E402
from sepssl.training.batches import RecordingBatches  # noqa: E402
from sepssl.training.checkpoints import run_of_worker  # noqa: E402
from sepssl.training.loop import train  # noqa: E402
from sepssl.training.separator_learner import SeparatorLearner  # noqa: E402
from sepssl.training.strategy import (  # noqa: E402
    lost_workers_named,
    make_strategy,
    require_same_step,
)

signals = []
signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
strategy = make_strategy("multiworker" if arguments.workers > 1 else "default")
os.kill(os.getpid(), signal.SIGTERM)  # before the first step
read = set()


class Store:
    """Sixteen clips of noise, which note when they are read."""

    names = tuple(f"{n}.wav" for n in range(16))

    def num_samples(self, clip):
        return 800

    def read(self, clip, start, count):
        read.add(clip)
        noise = np.random.default_rng(clip).normal(size=(1, 800)).astype(np.float32)
        return noise[:, start : start + count]


def stop(number, _):  # as a command handles it
    raise SystemExit(128 + number)


class Batches(RecordingBatches):
    def load(self, step, *worker, **of):
        if step == arguments.signal_at and index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().load(step, *worker, **of)


def make_learner():
    keras.utils.set_random_seed(0)
    tdcn = TDCN(6, 8, 1, 1, unroll=True)
    learner = SeparatorLearner(Separator(2, STFTBasis(64, 32), tdcn, "uniform"), clip_norm=0.5)
    learner.build()
    learner.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    return learner


refused = []
if arguments.workers > 1:  # what the two have to agree on
    try:
        with run_of_worker(
            arguments.folder / "different", {"train": {"rate": index}}, False, strategy
        ):
            raise InputError("the chief starts first")
    except InputError as error:
        refused.append(str(error))
    try:
        require_same_step(strategy, 4 + 2 * index)
    except InputError as error:
        refused.append(str(error))
    require_same_step(strategy, 4)
    try:  # a failure of this process alone
        with lost_workers_named(strategy):
            tf.function(lambda: tf.numpy_function(os.stat, ["nowhere"], tf.int64))()
    except InputError as error:
        refused.append(str(error))
batches = Batches(Store(), np.arange(16), 8, 600, 0, gain_range_db=(-3.0, 3.0))
workdir = arguments.folder / str(arguments.workers)
if arguments.signal_at:
    signal.signal(signal.SIGTERM, stop)
    try:
        with run_of_worker(workdir, {"train": {"steps": 100}}, False, strategy) as run:
            train(
                run, strategy, make_learner, batches, None, 100, 0.05,
                log_every=1, checkpoint_every=100, state_steps=(), verbose=False,
            )  # fmt: skip
    except (SystemExit, WorkerLost) as ended:
        print(json.dumps({"worker": index, "ended": repr(ended)}), flush=True)
    if child:
        os.waitpid(child, 0)
    os._exit(0)
with run_of_worker(workdir, {"train": {"steps": 6}}, False, strategy) as run:
    product = train(
        run, strategy, make_learner, batches, lambda product: {"one": 1.0}, 6, 0.05,
        log_every=1, checkpoint_every=2, state_steps=(0, 3), verbose=False,
    )  # fmt: skip
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
found = {
    "weights": [w.tolist() for w in product.get_weights()],
    "losses": [r["loss"] for r in records if "loss" in r],
    "norms": [r["gradient_norm"] for r in records if "loss" in r],
    "read": sorted(read),
    "wrote_elsewhere": run.path != workdir,
    "refused": refused,
    "signals": signals,
}
if child == 0:  # without Python's end, like the fork server's children
    (arguments.folder / "other.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)
if child:
    assert os.waitpid(child, 0)[1] == 0
print(json.dumps(found))
