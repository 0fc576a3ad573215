"""What AudioSet and 10,000 hours of field recordings cost: hours and storage, from measured rates.

    python tests/benchmarks/cost_model.py             # writes the tables of docs/corpus.md
    python tests/benchmarks/cost_model.py --measure=inference  # measures one core of this machine
    python tests/benchmarks/cost_model.py --measure=training   # first, as sepssl-train computes
    python tests/benchmarks/cost_model.py --gpu=FILE  # takes a GPU from FILE first, which is what
                                                      # gpu/layers.py --output=FILE has written

Rates lie in docs/results/rates.json: seconds that a device takes per second of sound separated,
per second of a mixture trained on, per patch embedded or trained on. Everything in the tables is
computed from them; what stands for more than one device is scaled, see `DEVICES`.
"""

import argparse
import json
import os
import pathlib
import time

DOCS = pathlib.Path(__file__).parents[2] / "docs"
RATES, PAGE = DOCS / "results/rates.json", DOCS / "corpus.md"
BEGIN, END = "<!-- tests/benchmarks/cost_model.py -->\n", "<!-- end of the cost model -->\n"
CORPORA = {"AudioSet": 2_000_000 * 10 / 3600, "field recordings": 10_000}  # hours
# What is measured, how many of it, and the share of so many that a training makes of them: ours
# to assume, but for one device. A v4-8 has 4 chips; they are taken to reach the GPU's share of
# their published bfloat16 peak (275 TFLOP/s each; H200: 989).
DEVICES = {
    "1 CPU": ("core", 1, 1.0),
    "16 CPUs": ("core", 16, 0.7),
    "1 GPU": ("gpu", 1, 1.0),
    "8 GPUs": ("gpu", 8, 0.9),
    "TPU v4-8": ("gpu", 4 * 275 / 989, 0.9),
}
TRAINING_SECONDS = {  # configuration -> rate, its unit in a step, steps
    "`separator_small`": ("small separator, training", 8 * 3.0, 10_000),
    "`encoder_small`": ("small encoder, training", 2 * 64, 3_000),
    "`separator_audioset`": ("full separator, training", 3 * 10.0, 3_000_000),
    "`encoder_audioset`, networks": ("CNN14, training", 2 * 1024, 500_000),
    "`encoder_audioset`, separation in its steps": ("full separator", 1024 * 10.0, 500_000),
}
CHUNK_OVERLAP = 1 / (1 - 0.22)  # a chunk of 30 s is a tenth context on each side, 0.02 fade
PATCHES = 1 / 0.48  # a second
BYTES = {  # a second of sound, 4 channels at 16 kHz
    "recordings, FLAC": 20_000,
    "channels, `store`": 128_000,
    "channels, FLAC": 80_000,
    "channels, Opus": 15_000,
    "channels, `log_mel`": 64_000,
    "index of `small`": PATCHES * 256 * 4,
}


def corpus_jobs(hours: float) -> dict[str, tuple[str, float]]:
    """Rate and its units of what is done to a corpus once."""
    seconds = hours * 3600
    return {
        "separate, small separator": ("small separator", seconds * CHUNK_OVERLAP),
        "separate, full separator": ("full separator", seconds * CHUNK_OVERLAP),
        "embed, `small`": ("small encoder", seconds * PATCHES),
        "embed, CNN14": ("CNN14", seconds * PATCHES),
    }


def duration(seconds: float) -> str:
    for unit, size, up_to in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72), ("d", 86400, 700)):
        if seconds < size * up_to:
            return (
                f"{seconds / size:.2g} {unit}"
                if seconds < 10 * size
                else f"{seconds / size:.0f} {unit}"
            )
    return f"{seconds / 86400 / 365:.2g} years"


def cell(rates: dict, device: str, rate: str, units: float, training: bool) -> str:
    kind, count, efficiency = DEVICES[device]
    known = rates[kind]["seconds"].get(rate)
    if known is None:
        return "not measured"
    return duration(known * units / count / (efficiency if training else 1.0))


def tables(rates: dict) -> str:
    head = "| | " + " | ".join(DEVICES) + " |\n|---|" + "---|" * len(DEVICES)
    rows = [head]
    for name, (rate, units, steps) in TRAINING_SECONDS.items():
        cells = (cell(rates, device, rate, units * steps, True) for device in DEVICES)
        rows.append(f"| train {name} | " + " | ".join(cells) + " |")
    for corpus, hours in CORPORA.items():
        for job, (rate, units) in corpus_jobs(hours).items():
            cells = (cell(rates, device, rate, units, False) for device in DEVICES)
            rows.append(f"| {corpus}: {job} | " + " | ".join(cells) + " |")
    storage = ["| | " + " | ".join(CORPORA) + " |\n|---|" + "---|" * len(CORPORA)]
    for what, size in BYTES.items():
        cells = (f"{size * hours * 3600 / 1e12:.2g} TB" for hours in CORPORA.values())
        storage.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n\n" + "\n".join(storage) + "\n"


def measured_core(what: str) -> dict:
    """Rates of one core, from CPU time."""
    from sepssl.cli.main import prefer_onednn

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if what == "training":
        prefer_onednn()
    import keras
    import numpy as np
    import tensorflow as tf

    from sepssl.configs import encoder_small, separator_audioset, separator_small
    from sepssl.representation.build import make_encoder
    from sepssl.separation.build import make_separator
    from sepssl.training.allocation import keep_freed_memory
    from sepssl.training.encoder import _make_learner as encoder_learner
    from sepssl.training.separator import _make_learner as separator_learner
    from sepssl.training.usage import gemm_peak

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keep_freed_memory()
    rng = np.random.default_rng(0)

    def noise(*shape):
        return tf.constant(0.1 * rng.normal(size=shape).astype(np.float32))

    def cpu_seconds(run, times):
        run()
        start = time.process_time()
        for _ in range(times):
            run()
        return (time.process_time() - start) / times

    def step_of(learner, batch):
        learner.build()
        learner.compile(optimizer=keras.optimizers.Adam(1e-4), jit_compile=False)
        learner.optimizer.build(learner.trainable_variables)
        step = tf.function(learner.update, jit_compile=learner.gains_from_xla, autograph=False)
        return lambda: float(step(batch)["loss"])

    found = {}
    shapes = {"small": (separator_small, (16, 48000)), "full": (separator_audioset, (2, 32000))}
    for name, (module, shape) in shapes.items():
        config = module.get_config()
        if what == "training":
            step = step_of(separator_learner(config), {"recordings": noise(*shape)})
            seconds = shape[0] * shape[1] / 2 / 16000  # of mixtures
            found[f"{name} separator, training"] = cpu_seconds(step, 3) / seconds
            continue
        separator = make_separator(config.separator, 16000, "float32")
        separator.build((None, None))
        x, call = noise(1, 160000), separator.compiled_call
        found[f"{name} separator"] = cpu_seconds(lambda x=x, call=call: call(x).numpy(), 4) / 10
    for name, backbone in {"small encoder": "small", "CNN14": "cnn14"}.items():
        config = encoder_small.get_config()
        config.encoder.backbone = backbone
        encoder = make_encoder(config.encoder, 16000, "float32")
        encoder.build((None, None))
        if what == "inference":
            x, call = noise(32, 15600), tf.function(encoder.call, autograph=False)
            found[name] = cpu_seconds(lambda x=x, call=call: call(x).numpy(), 3) / 32
            continue
        learner = encoder_learner(config)
        count, samples = 64 if name == "small encoder" else 4, encoder.log_mel.patch_samples
        batch = {
            "mixtures": noise(count, 2, samples),
            "channels": noise(count, 2, 4, samples),
            "uniforms": tf.random.uniform([count, learner.front_end.num_uniforms]),
        }
        found[f"{name}, training"] = cpu_seconds(step_of(learner, batch), 3) / (2 * count)
    return {
        "gflop_per_second_of_matrix_products": round(gemm_peak("float32") / 1e9, 1),
        "seconds": {key: float(f"{value:.3g}") for key, value in found.items()},
    }


def measured_gpu(file: pathlib.Path) -> dict:
    """Rates of a GPU in bfloat16, from the output of gpu/layers.py."""
    result = json.loads(file.read_text())
    sizes = result["sizes"]
    units = {
        "separator": ("full separator", sizes["mixtures"] * sizes["seconds"]),
        "encoder": ("CNN14", 2 * sizes["pairs"]),
    }
    found = {}
    for row in result["rows"]:
        if row["precision"] == "bfloat16":
            name, unit = units[row["network"]]
            training = "" if row["pass"] == "forward" else ", training"
            found[name + training] = float(f"{row['milliseconds'] / 1000 / unit:.3g}")
    return {"machine": f"{result['device']}, JAX {result['jax']}, bfloat16", "seconds": found}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", choices=["inference", "training"])
    parser.add_argument("--gpu", type=pathlib.Path)
    options = parser.parse_args()
    rates = json.loads(RATES.read_text())
    if options.measure:
        core = measured_core(options.measure)
        core["seconds"] = rates["core"]["seconds"] | core["seconds"]
        rates["core"] |= core
    if options.gpu:
        gpu = measured_gpu(options.gpu)
        gpu["seconds"] = rates["gpu"]["seconds"] | gpu["seconds"]
        rates["gpu"] |= gpu
    RATES.write_text(json.dumps(rates, indent=1) + "\n")
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + tables(rates) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
