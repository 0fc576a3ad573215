"""Trains encoders on a GPU, by this package's views and objectives under JAX.

    python -m tests.benchmarks.gpu.encoders tests/benchmarks/gpu/fold_encoders.json \
        --sounds=ESC50 --output=NEW_FOLDER
    python -m tests.benchmarks.gpu.encoders FOLDER/plan.json --output=FOLDER --keras

From the repository's root, on a machine with a large GPU and many cores, and with JAX, but not
necessarily TensorFlow, in place of which an empty module is put. Batches, views, losses and
optimizer are those of `sepssl-train --config=encoder_small`; weights start from other random
numbers, and training multiplies in TensorFloat-32.

A plan (JSON) has `pools` of scenes, which the machine's cores make; and `encoders`, trained one
after the other: `name`, `pool`, `seed`, `separator` ("untrained", or one that comes with the
package), and in `set` what differs from configs/encoder_small.py. `set` of the plan is for all.
Of labels, scenes only take that their sounds have different ones; for encoders that no label may
touch, `--sounds` is a manifest with the columns path and fold alone.

Writes the plan, with what `--set` changes, and the weights of each as NAME.npz, with arrays w0, w1,
... in the order of the encoder's trainable variables and its others. With TensorFlow, `--keras`
makes NAME.keras of them.
"""

import argparse
import concurrent.futures
import json
import pathlib
import time

import numpy as np

from tests.benchmarks.gpu.no_tensorflow import use_jax

START = time.time()


def say(*values):
    print(f"[{time.time() - START:6.1f}]", *values, flush=True)


def config_of(plan, entry):
    from sepssl.configs import encoder_small

    config = encoder_small.get_config()
    config.seed = entry["seed"]
    config.data.num_clips = plan["pools"][entry["pool"]]["count"]
    config.update_from_flattened_dict(plan["set"] | entry.get("set", {}))
    return config


def make_keras(plan, folder):
    """Files of this package from the weights of all encoders that are there."""
    from sepssl.representation.build import make_encoder
    from sepssl.serialization import save_model

    for entry in plan["encoders"]:
        source = folder / f"{entry['name']}.npz"
        if not source.exists():
            continue
        encoder = make_encoder(config_of(plan, entry).encoder, 16000)
        encoder.build((None, None))
        variables = encoder.trainable_variables + encoder.non_trainable_variables
        with np.load(source) as arrays:
            for index, variable in enumerate(variables):
                variable.assign(arrays[f"w{index}"])
        save_model(encoder, source.with_suffix(".keras"))
        say(source.with_suffix(".keras"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=pathlib.Path)
    parser.add_argument("--sounds", default="", help="folder or manifest with folds")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="names of encoders, with commas between them")
    parser.add_argument("--set", default="{}", help="JSON, over the plan's own")
    parser.add_argument("--minutes", type=float, default=9.0, help="none is begun after so many")
    parser.add_argument("--keras", action="store_true", help="of what is there")
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text(encoding="utf-8"))
    plan["set"] = plan.get("set", {}) | json.loads(options.set)
    if options.keras:
        make_keras(plan, options.output)
        return
    only = options.only.split(",") if options.only else None
    entries = [e for e in plan["encoders"] if only is None or e["name"] in only]
    pools = {entry["pool"]: plan["pools"][entry["pool"]] for entry in entries}
    options.output.mkdir(parents=True)
    (options.output / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
    use_jax()
    from tests.benchmarks.gpu.scenes import FULL_SCALE, POOLS, start_rendering

    workers, rendering = start_rendering(pools, options.sounds)

    import jax
    import jax.numpy as jnp
    import keras

    from sepssl.configs import separator_small
    from sepssl.separation.build import make_separator
    from tests.benchmarks.gpu.cells import EncoderProgram, channels_of, load_separator

    jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    keras.utils.set_random_seed(0)
    untrained = make_separator(separator_small.get_config().separator, 16000)
    untrained.build((None, None))
    programs, jobs = {}, []
    for entry in entries:
        name, config = entry["separator"], config_of(plan, entry)
        separator = untrained if name == "untrained" else load_separator(name)
        clips, parts = config.data.num_clips, config.to_dict()
        shown = [parts[part] for part in ("views", "encoder", "objective", "train")]
        kind = json.dumps([*shown, clips, separator.num_sources])
        if kind not in programs:
            programs[kind] = EncoderProgram(config), (1, clips, separator.num_sources, 1)
        jobs.append((entry, config, separator, programs[kind][0]))
    with concurrent.futures.ThreadPoolExecutor() as threads:
        compiling = [threads.submit(made.compile, *sizes) for made, sizes in programs.values()]
        for task in compiling:
            task.result()
    say("compiled")
    rendering.get()
    workers.terminate()
    say("rendered")
    for entry, config, separator, program in jobs:
        if time.time() - START > 60 * options.minutes:
            say(f"{entry['name']}: no time left")
            continue
        mixtures = jnp.sum(jax.device_put(POOLS[entry["pool"]]), axis=1, dtype=jnp.int16)
        waveforms = mixtures.astype(jnp.float32) / FULL_SCALE
        channels = channels_of(separator, None, waveforms)[None]
        del waveforms
        labels = np.zeros([1, len(mixtures), 1], np.int8)  # which are not looked at
        weights, logs = program.train([config], mixtures[None], channels, labels)
        del mixtures, channels
        arrays = [np.asarray(value[0]) for group in weights for value in group]
        np.savez(
            options.output / f"{entry['name']}.npz", **{f"w{i}": w for i, w in enumerate(arrays)}
        )
        say(f"{entry['name']}: loss {logs[0]}, accuracy {logs[1]}")


if __name__ == "__main__":
    main()
