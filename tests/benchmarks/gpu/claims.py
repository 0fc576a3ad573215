"""The table of configs/real_ablation.py on a GPU: its separators, encoders and scores, under JAX.

    python -m tests.benchmarks.gpu.claims --sounds=ESC50 --output=NEW_FOLDER [--minutes=9]

From the repository's root, on a machine with a large GPU and many cores, and with JAX, but not
necessarily TensorFlow, in place of which an empty module is put. Scenes, batches, views, losses,
optimizer, queries and classifiers are those of `sepssl-train --config=real_ablation`, by the same
code; weights start from other random numbers, the seed's separator draws its crops by itself, and
training multiplies in TensorFloat-32. The separators of all seeds are trained side by side, the
encoders one by one, each in one call.

Rows that the configuration does not have: true sources into each of which everything else leaks,
so many dB down, and the separator `small-8`.

Writes `results.jsonl`, a line for each cell. With TensorFlow, `--table` makes `table.md` and
`figure.svg` of it.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process for each core

from tests.benchmarks.gpu.no_tensorflow import use_jax

START = time.time()
RESERVE_SECONDS = 45.0  # for the last scores
LEAKS_DB = (-6.0, -12.0, -20.0)


def say(*values):
    print(f"[{time.time() - START:6.1f}]", *values, flush=True)


def extra_rows(rows):
    """The rows that are made here only, and those of the configuration."""
    named = {row["name"]: row for row in rows}
    sources = named["mixture/channel, true sources"]
    name = "mixture/channel, small-8"
    named[name] = {**named["mixture/channel, small"], "name": name, "separators": ("small-8",)}
    for leak in LEAKS_DB:
        name = f"mixture/channel, true sources with leaks of {leak:.0f} dB"
        named[name] = {**sources, "name": name, "leak_db": leak}
    return list(named.values())


def score(vectors, labels, seed):
    """The scores of a cell, from its embeddings."""
    from sepssl.evaluation.protocol import evaluate_representation
    from sepssl.evaluation.scene_retrieval import retrieval_scores
    from sepssl.evaluation.shallow import Split

    splits = [Split(vectors[name], labels[name]) for name in ("train", "validation", "test")]
    scores = evaluate_representation(*splits, seed)
    rows = {name: vectors[name] for name in ("scene", "scene_channels", "scene_sources")}
    scores |= retrieval_scores(vectors["queries"], labels["queries"], rows, labels["scenes"], seed)
    return scores


def write(folder):
    """The table of all cells."""
    from sepssl.configs import real_ablation
    from sepssl.pipelines.ablation import METRICS, RETRIEVAL, Results
    from sepssl.reports.comparison import write_table

    results = Results(folder / "results.jsonl")
    cells = {row["name"]: {} for row in extra_rows(real_ablation.get_config().rows)}
    for record in sorted(results.records, key=lambda record: record["seed"]):
        cells[record["row"]][record["seed"]] = record["settings"]
    comparisons = [*real_ablation.COMPARISONS]
    for leak in LEAKS_DB:
        leaky = f"mixture/channel, true sources with leaks of {leak:.0f} dB"
        comparisons.append((leaky, "mixture/channel, true sources"))
        comparisons.append((leaky, "mixture/channel, untrained separator"))
    metrics = METRICS | RETRIEVAL
    write_table(results.scores(cells, metrics), metrics, comparisons, folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sounds", required=True, help="folder with labels.csv")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--only", default="", help="rows, with ; between them")
    parser.add_argument("--set", default="", help="a=1;b.c=2: numbers of the configuration")
    parser.add_argument("--table", action="store_true", help="of what is there")
    options = parser.parse_args()
    if options.table:
        write(options.output)
        return
    options.output.mkdir(parents=True)
    use_jax()
    from sepssl.configs import real_ablation
    from tests.benchmarks.gpu.seeds import start_rendering

    config = real_ablation.get_config()
    config.states["small-8"] = "small-8"
    config.directory = f"mix:{pathlib.Path(options.sounds).resolve()}"
    for pair in filter(None, options.set.split(";")):
        key, value = pair.split("=")
        part, _, last = key.rpartition(".")
        inner = config
        for name in filter(None, part.split(".")):
            inner = inner[name]
        inner[last] = json.loads(value)
    rows = extra_rows(config.rows)
    wanted = options.only.split(";") if options.only else [row["name"] for row in rows]
    config.seeds = tuple(int(seed) for seed in options.seeds.split(","))
    scorers = multiprocessing.get_context("fork").Pool(max((os.cpu_count() or 2) - 1, 1))
    seeds, rendering = start_rendering(config)
    say("rendering")

    import jax

    jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    import sepssl.pipelines.ablation as ablation
    from sepssl.version import __version__
    from tests.benchmarks.gpu.cells import SeedModels

    device = f"JAX, {jax.devices()[0].device_kind}"
    models = SeedModels(config, seeds, say)
    named = {row["name"]: row for row in rows}
    chosen = [named[name] for name in wanted]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for task in [threads.submit(models.compile(row)) for row in chosen]:
            task.result()
    say("compiled")
    rendering.get()
    say("rendered")
    models.load()
    models.train_separators()
    results = ablation.Results(options.output / "results.jsonl")
    waiting = []

    def collect(block):
        for item in list(waiting):
            name, seed, scores = item
            if block or scores.ready():
                record = {"row": name, "seed": seed, "settings": device, "version": __version__}
                results.add(record | scores.get())
                waiting.remove(item)

    for row in chosen:
        if time.time() - START > 60 * options.minutes - RESERVE_SECONDS:
            say(f"{row['name']}: no time left")
            continue
        for seed, vectors, labels in models.embeddings(row):
            task = scorers.apply_async(score, (vectors, labels, seed))
            waiting.append((row["name"], seed, task))
        collect(block=False)
    collect(block=True)
    say(f"{options.output}: written")


if __name__ == "__main__":
    main()
