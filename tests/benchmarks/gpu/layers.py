"""Times the networks of full size on a GPU, forward and backward, and compares them with the CPU.

    python -m tests.benchmarks.gpu.layers --output=FILE.json [--small]

The separator of configs/separator_audioset.py on 3 mixtures of 10 s under MixIT, and the encoder of
configs/encoder_audioset.py on 512 pairs of patches under NT-Xent, in float32 (with TensorFloat-32
or without) and with bfloat16, by Keras's layers under JAX. Peaks are measured ones: the product of
two matrices of 8192 rows. Parity: outputs and gradients of short inputs on the GPU and, by
the same program, on the machine's CPU, all in float32; weights are drawn by NumPy.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from tests.benchmarks.gpu.no_tensorflow import use_jax

PRECISIONS = {  # Keras's policy and JAX's precision of products
    "float32": ("float32", "highest"),
    "TensorFloat-32": ("float32", "tensorfloat32"),
    "bfloat16": ("mixed_bfloat16", "tensorfloat32"),
}
KINDS = ("forward", "forward and backward")
CASES = list(itertools.product(("separator", "encoder"), KINDS))
SIZES = {"mixtures": 3, "seconds": 10.0, "pairs": 512}
SMALL = {"mixtures": 1, "seconds": 0.5, "pairs": 4, "repeats": 1, "width": 8}


START = time.time()


def say(*values):
    print(f"[{time.time() - START:6.1f}]", *values, flush=True)


class Task:
    """A network, its loss on one batch, and what it is called with."""

    def __init__(self, name, policy, unroll, sizes):
        import jax.numpy as jnp
        import keras

        from configs import encoder_audioset, separator_audioset
        from sepssl.representation.build import make_encoder
        from sepssl.representation.nt_xent import nt_xent
        from sepssl.separation.build import make_separator
        from sepssl.separation.mixit import mixit_loss, mixtures_of_mixtures

        random = np.random.default_rng(0)
        if name == "separator":
            config = separator_audioset.get_config().separator
            config.update(unroll=unroll, repeats=sizes.get("repeats", config.repeats))
            network = make_separator(config, 16000, policy)
            network.build((None, None))
            shape = (2 * sizes["mixtures"], int(16000 * sizes["seconds"]))
        else:
            config = encoder_audioset.get_config().encoder
            config.width = sizes.get("width", 0)
            network = make_encoder(config, 16000, policy).backbone
            network.build((None, 96, 64))
            shape = (2 * sizes["pairs"], 96, 64)
        self.inputs = random.standard_normal(shape).astype(np.float32) * 0.1
        self.weights = []
        for variable in network.variables:
            value = np.asarray(variable.value)
            if value.ndim > 1:  # kernels; gains, biases and moments stay as they start
                spread = value.std() if value.std() else 0.1
                value = (random.standard_normal(value.shape) * spread).astype(np.float32)
            self.weights.append(value)
        trained = {id(v) for v in network.trainable_variables}
        self.is_trained = [id(v) in trained for v in network.variables]

        def forward(weights, inputs):
            """Of a separator the channels, of an encoder the embeddings."""
            pairs = zip(network.variables, weights, strict=True)
            with keras.StatelessScope(state_mapping=list(pairs)):
                if name == "separator":
                    return network(mixtures_of_mixtures(inputs)[1], training=True)
                return network(inputs, training=True)

        def loss(weights, inputs):
            outputs = forward(weights, inputs)
            if name == "separator":
                references = mixtures_of_mixtures(inputs)[0]
                return jnp.mean(mixit_loss(references, outputs)[0])
            half = len(inputs) // 2
            return jnp.mean(nt_xent(outputs[:half], outputs[half:]))

        self.forward, self.loss = forward, loss

    def lower(self, kind):
        """The program of a pass, not compiled yet."""
        import jax

        function = self.forward if kind == "forward" else jax.value_and_grad(self.loss)
        return jax.jit(function).lower(self.weights, self.inputs)


def seconds(function, *arguments, at_least=1.5):
    """Of one call, from calls one after the other, after two that do not count."""
    import jax

    for _ in range(2):
        jax.block_until_ready(function(*arguments))
    calls, start = 0, time.time()
    while time.time() - start < at_least:
        for _ in range(5):
            result = function(*arguments)
        jax.block_until_ready(result)
        calls += 5
    return (time.time() - start) / calls


def operations(name, kind, sizes):
    """Floating-point operations of a pass, which JAX counts on CPUs only.

    Counted where no block is in a loop, of which only one turn would count.
    """
    return Task(name, "float32", True, sizes).lower(kind).cost_analysis()["flops"]


def peak(policy, rows):
    """FLOP/s of a matrix product."""
    import jax
    import jax.numpy as jnp

    kind = jnp.bfloat16 if policy == "mixed_bfloat16" else jnp.float32
    x = jax.random.normal(jax.random.key(0), (rows, rows), kind)
    return 2 * rows**3 / seconds(jax.jit(jnp.matmul), x, x, at_least=1.0)


def relative(a, b):
    """Root of the mean squared difference, beside that of b."""
    a, b = (np.concatenate([np.ravel(np.float64(x)) for x in xs]) for xs in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def parity(name, small):
    """Outputs and gradients on GPU and CPU."""
    import jax

    sizes = {"mixtures": 1, "seconds": 1.0, "pairs": 8}
    task = Task(name, "float32", False, sizes | (SMALL if small else {}))
    results = {}
    for kind in ("cpu", jax.default_backend()):
        device = jax.devices(kind)[0]
        arguments = jax.device_put((task.weights, task.inputs), device)
        output = np.asarray(jax.jit(task.forward)(*arguments))
        gradient = [np.asarray(g) for g in jax.jit(jax.grad(task.loss))(*arguments)]
        trained = [g for g, kept in zip(gradient, task.is_trained, strict=True) if kept]
        results[kind] = ([output], trained)
    on_cpu, on_gpu = results["cpu"], results[jax.default_backend()]
    return {
        "output": relative(on_gpu[0], on_cpu[0]),
        "largest difference of outputs": float(np.abs(on_gpu[0][0] - on_cpu[0][0]).max()),
        "gradient": relative(on_gpu[1], on_cpu[1]),
    }


def timings(networks, small):
    """A row for each pass of each network in each precision."""
    import jax

    sizes = SMALL if small else SIZES
    counting = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.gpu.layers", "--count"] + ["--small"] * small,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
    )
    timed = []
    tops = {}
    for precision, (policy, products) in PRECISIONS.items():
        with jax.default_matmul_precision(products):
            tops[precision] = peak(policy, 256 if small else 8192)
    say({name: f"{top / 1e12:.1f} TFLOP/s" for name, top in tops.items()})
    # One network after the other, so that something is there if time runs out.
    for name in networks:
        lowered, tasks = {}, {}
        for precision, (policy, products) in PRECISIONS.items():
            tasks[precision] = Task(name, policy, False, sizes)
            for kind in KINDS:
                with jax.default_matmul_precision(products):
                    lowered[precision, kind] = tasks[precision].lower(kind)
        say(f"{name}: lowered")

        def compiled(case, name=name, lowered=lowered):
            program = lowered[case].compile()
            say(f"{name}, {case}: compiled")
            return program

        with concurrent.futures.ThreadPoolExecutor() as threads:
            programs = list(threads.map(compiled, lowered))
        for (precision, kind), program in zip(lowered, programs, strict=True):
            arguments = jax.device_put((tasks[precision].weights, tasks[precision].inputs))
            with jax.default_matmul_precision(PRECISIONS[precision][1]):
                took = seconds(program, *arguments)
            size = program.memory_analysis().temp_size_in_bytes
            timed.append((name, kind, precision, took, size))
            say(f"{name}, {kind}, {precision}: {1000 * took:.3f} ms")
        del lowered, tasks, programs
    cost = dict(zip(CASES, json.loads(counting.communicate()[0]), strict=True))
    rows = []
    for name, kind, precision, took, size in timed:
        flops, top = cost[name, kind], tops[precision]
        rows.append(
            {
                "network": name,
                "pass": kind,
                "precision": precision,
                "milliseconds": round(1000 * took, 3),
                "TFLOP": round(flops / 1e12, 4),
                "TFLOP/s": round(flops / took / 1e12, 2),
                "peak TFLOP/s": round(top / 1e12, 2),
                "share of peak": round(flops / took / top, 4),
                "GB": round(size / 1e9, 2),
            }
        )
        say(rows[-1])
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--count", action="store_true", help="print the operations of each pass")
    parser.add_argument("--networks", default="encoder,separator", help="one after the other")
    parser.add_argument("--parity", action="store_true", help="compare with the CPU, time nothing")
    parser.add_argument("--small", action="store_true", help="tiny batches, to try the program")
    options = parser.parse_args()
    use_jax()
    sizes = SMALL if options.small else SIZES
    if options.count:
        print(json.dumps([operations(*case, sizes) for case in CASES]))
        return
    import jax

    networks = options.networks.split(",")
    result = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "sizes": sizes}
    result["rows"] = [] if options.parity else timings(networks, options.small)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name in networks:
        with jax.default_matmul_precision("highest"):
            result[f"parity of {name}"] = parity(name, options.small)
        say(name, result[f"parity of {name}"])
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
