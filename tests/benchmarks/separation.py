"""How fast the separator is, and how much memory it takes, beside Asteroid's on PyTorch.

    pip install -e '.[benchmark]'
    python tests/benchmarks/separation.py [inference training loss]

One thread on one core. Every contestant runs in a process of its own, turn by turn, so that a busy
machine hurts all alike; the table has medians of CPU time, ratios to Asteroid, and the share of the
speed that the same core reaches at multiplying matrices. Memory is the peak over what the process
held before the first run. Asteroid's ConvTasNet has the sizes of the released MixIT model: 256
filters of 40 samples, 4 repeats of 8 blocks, 256 and 512 channels.
"""

import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time

RATE = 16000
ROUNDS = {"inference": 7, "training": 9, "loss": 5}


def tensorflow():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def noise(*shape):
    import numpy as np

    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def gemm():
    """20 products of the sizes in a block, each needing the one before."""
    tf = tensorflow()
    x, up, down = (tf.constant(noise(*s)) for s in ((8000, 256), (256, 512), (512, 256)))

    @tf.function
    def run(x):
        for _ in range(10):
            x = tf.matmul(tf.matmul(x, up), down) * 1e-3
        return x

    return lambda: run(x).numpy()


GEMM_FLOP = 10 * 2 * 2 * 8000 * 256 * 512


def inference_flop(sources, seconds):
    """Multiplications and additions in the dense layers."""
    frames = seconds * RATE / 20
    weights = 40 * 256 + 256 * 256 + 32 * 2 * 256 * 512 + sources * (256 * 256 + 256 * 40)
    return 2 * frames * weights


def separate(compile_, dtype="float32", sources=8, seconds=10):
    tf = tensorflow()
    import keras

    keras.config.set_dtype_policy(dtype)
    from sepssl.separation import Separator

    separator = Separator(sources)
    separator.build((None, None))
    x = tf.constant(noise(1, seconds * RATE))
    run = tf.function(separator.call, jit_compile=compile_)
    return lambda: run(x).numpy()


def asteroid_net(sources):
    import warnings

    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from asteroid.masknn import TDConvNet
    from asteroid.models.base_models import BaseEncoderMaskerDecoder
    from asteroid_filterbanks import make_enc_dec

    encoder, decoder = make_enc_dec("free", n_filters=256, kernel_size=40, stride=20)
    masker = TDConvNet(
        256, sources, 256, n_blocks=8, n_repeats=4, bn_chan=256, hid_chan=512, skip_chan=0,
        mask_act="sigmoid",
    )  # fmt: skip
    return torch, BaseEncoderMaskerDecoder(encoder, masker, decoder, encoder_activation="relu")


def asteroid_separate(compile_, sources=8, seconds=10):
    torch, net = asteroid_net(sources)
    x = torch.from_numpy(noise(1, seconds * RATE))
    run = torch.compile(net.eval()) if compile_ else net.eval()

    def inference():
        with torch.inference_mode():
            return run(x)

    return inference


def train(compile_, **tdcn):
    """A step on one mixture of two recordings of 1 s, 4 sources: loss, gradient, clipping, Adam."""
    tf = tensorflow()
    import keras

    from sepssl.separation import TDCN, Separator, SeparatorLearner

    learner = SeparatorLearner(Separator(4, tdcn=TDCN(**tdcn)))
    learner.build()
    learner.compile(optimizer=keras.optimizers.Adam(1e-4), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    data = {"recordings": tf.constant(noise(2, RATE))}
    run = tf.function(learner.train_step, jit_compile=compile_)
    return lambda: float(run(data)["loss"])


def asteroid_train():
    torch, net = asteroid_net(4)
    from asteroid.losses import MixITLossWrapper
    from asteroid.losses.sdr import multisrc_neg_snr

    loss_of = MixITLossWrapper(multisrc_neg_snr)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    references = torch.from_numpy(noise(1, 2, RATE))

    def run():
        optimizer.zero_grad()
        loss = loss_of(net(references.sum(1)), references)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        return float(loss)

    return run


def loss(compile_, sources):
    tf = tensorflow()
    from sepssl.separation import mixit_loss

    references = tf.constant(noise(4, 2, 10 * RATE))
    estimates = tf.constant(noise(4, sources, 10 * RATE))

    @functools.partial(tf.function, jit_compile=compile_)
    def run(references, estimates):
        with tf.GradientTape() as tape:
            tape.watch(estimates)
            losses, _ = mixit_loss(references, estimates)
        return tape.gradient(losses, estimates)

    return lambda: run(references, estimates).numpy()


def asteroid_loss(sources):
    import torch
    from asteroid.losses import MixITLossWrapper
    from asteroid.losses.sdr import multisrc_neg_snr

    torch.set_num_threads(1)
    loss_of = MixITLossWrapper(multisrc_neg_snr)
    references = torch.from_numpy(noise(4, 2, 10 * RATE))
    estimates = torch.from_numpy(noise(4, sources, 10 * RATE)).requires_grad_()

    def run():
        estimates.grad = None
        loss_of(estimates, references).backward()

    return run


CONTESTANTS = {
    "inference": {
        "asteroid": lambda: asteroid_separate(False),
        "asteroid, torch.compile": lambda: asteroid_separate(True),
        "sepssl": lambda: separate(False),
        "sepssl, XLA": lambda: separate(True),
        "sepssl, bfloat16": lambda: separate(False, "mixed_bfloat16"),
        "matrix products": gemm,
    },
    "training": {
        "asteroid": asteroid_train,
        "sepssl, loop": lambda: train(False),
        "sepssl, loop, rematerialized": lambda: train(False, rematerialize=True),
        "sepssl, unrolled, XLA": lambda: train(True, unroll=True),
    },
    "loss": {
        f"{name}, M={sources}": functools.partial(*make, sources)
        for sources in (4, 8)
        for name, make in {
            "asteroid": (asteroid_loss,),
            "sepssl": (loss, False),
            "sepssl, XLA": (loss, True),
        }.items()
    },
}


def work(item: str, name: str) -> None:
    """A contestant: runs once for every line it is sent."""
    run = CONTESTANTS[item][name]()
    before = peak_megabytes()
    start = time.perf_counter()
    run()
    print(json.dumps({"first": time.perf_counter() - start}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        seconds = time.process_time() - start
        print(json.dumps({"cpu": seconds, "memory": peak_megabytes() - before}), flush=True)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(item: str) -> None:
    core = str(max(os.sched_getaffinity(0)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    workers, first = {}, {}
    for name in CONTESTANTS[item]:
        command = ["taskset", "-c", core, sys.executable, __file__, "--work", item, name]
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
    for _ in range(ROUNDS[item]):
        for name, worker in workers.items():
            worker.stdin.write("run\n")
            worker.stdin.flush()
            runs[name].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.kill()
    seconds = {name: statistics.median(run["cpu"] for run in found) for name, found in runs.items()}
    peak = GEMM_FLOP / seconds["matrix products"] / 1e9 if item == "inference" else None
    print(f"\n{item:<30} CPU s   ratio   first s   memory MB" + ("   of peak" if peak else ""))
    for name, value in seconds.items():
        # Losses are compared at the same number of sources.
        base = "asteroid" if item != "loss" else f"asteroid, {name.split(', ')[-1]}"
        ratio = f"{seconds[base] / value:.2f}" if base in seconds else "-"
        memory = runs[name][-1]["memory"]
        line = f"{name:<30}{value:6.3f} {ratio:>7} {first[name]:>9.1f} {memory:>11.0f}"
        if peak and name != "matrix products":
            line += f"{inference_flop(8, 10) / value / 1e9 / peak:>10.0%}"
        print(line)
    if peak:
        print(f"matrix products: {peak:.0f} GFLOP/s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        for chosen in sys.argv[1:] or CONTESTANTS:
            compare(chosen)
