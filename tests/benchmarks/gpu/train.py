"""Trains several separators side by side on a GPU, by this package's networks and losses under JAX.

    python -m tests.benchmarks.gpu.train tests/benchmarks/gpu/separators.json \
        --sounds=SOUNDS.csv --output=NEW_FOLDER --minutes=7.5

From the repository's root, on a machine with a large GPU and many cores, and with JAX, but not
necessarily TensorFlow, in place of which an empty module is put. A step of `sepssl-train` has the
same loss and gradient (1e-6; 2e-4 over 18 blocks), and the same recipe: Adam, clipping, warm-up,
cosine, moving average of the weights.

A plan (JSON) has `pools` of scenes, which the machine's cores make before training begins and which
stay in the GPU's memory; and `programs`, each a shape of network that is compiled once. The models
of a program differ in seed, settings and pool, and are trained at once by `vmap`: the steps of such
small networks are bound by the number of kernels, so that four models cost little more than one.
`--minutes` decides the number of steps, which the learning rates depend on.

Writes `history.json` (scores on validation scenes over time) and the weights of every model at the
end, those of the moving average, as NAME.npz with arrays w0, w1, ... in the order of
`Separator.weights`.
"""

import argparse
import concurrent.futures
import json
import pathlib
import time

import numpy as np

from tests.benchmarks.gpu.no_tensorflow import use_jax

START = time.time()
RESERVE_SECONDS = 13.0  # for scores and files at the end


def say(*values):
    print(f"[{time.time() - START:6.1f}]", *values, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=pathlib.Path)
    parser.add_argument("--sounds", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--steps", type=int, default=0, help="instead of what fits into --minutes")
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text(encoding="utf-8"))
    options.output.mkdir(parents=True)
    use_jax()
    from tests.benchmarks.gpu.scenes import POOLS, start_rendering

    workers, rendering = start_rendering(plan["pools"], options.sounds)

    import jax
    import jax.numpy as jnp

    from tests.benchmarks.gpu.program import STEPS_PER_CALL, Program

    jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    ranges, count = {}, 0  # training pools lie one after the other in one array
    for name, pool in plan["pools"].items():
        if name != "validation":
            ranges[name] = (count, count + pool["count"])
            count += pool["count"]
    programs = [Program(spec, ranges) for spec in plan["programs"]]
    with concurrent.futures.ThreadPoolExecutor(len(programs)) as threads:
        list(threads.map(lambda program: program.compile(count), programs))
    say("compiled")
    rendering.get()
    workers.terminate()
    scenes = jnp.concatenate([jax.device_put(POOLS[name]) for name in ranges])
    validation = jax.device_put(POOLS["validation"])
    say(f"{count} scenes are on {jax.devices()[0]}")

    seconds = sum(program.seconds_per_step(scenes) for program in programs)
    left = 60 * options.minutes - (time.time() - START) - RESERVE_SECONDS
    total = (options.steps or int(left / seconds)) // STEPS_PER_CALL * STEPS_PER_CALL
    say(f"{total} steps of {1000 * seconds:.1f} ms")
    history = []

    def look(program):
        for model, scores in program.scores(validation):
            history.append({"step": program.step, **model, **scores})
            say(program.step, model["name"], {k: round(v, 2) for k, v in scores.items()})

    looks = [share * total for share in plan["looks"]]
    for step in range(0, total, STEPS_PER_CALL):
        for program in programs:
            program.advance(total, scenes)
        while looks and step + STEPS_PER_CALL >= looks[0]:
            looks.pop(0)
            for program in programs:
                look(program)
    for program in programs:
        look(program)
        for name, weights in program.weights():
            arrays = {f"w{i}": value for i, value in enumerate(weights)}
            np.savez(options.output / f"{name}.npz", **arrays)
    (options.output / "history.json").write_text(json.dumps(history, indent=1) + "\n")
    say(f"{options.output}: written")


if __name__ == "__main__":
    main()
