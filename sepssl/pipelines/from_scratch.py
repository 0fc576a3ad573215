"""The whole pipeline on the built-in scenes: data, separator, encoders, evaluation, export, report.

A run that is continued trains on from where it stopped; evaluation, export and report, which are
short, are done again.
"""

import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from sepssl.data.clips import InMemory
from sepssl.data.scenes import CLASS_NAMES, render_source
from sepssl.data.splits import scene_splits
from sepssl.evaluation.baselines import baselines
from sepssl.evaluation.protocol import evaluate_on_splits
from sepssl.export import convert_encoder, origin_of, save_encoder
from sepssl.files import atomic_file
from sepssl.pipelines.quickstart_folder import QuickstartFolder
from sepssl.reports.found import Sound
from sepssl.reports.page import Section, write_page
from sepssl.reports.training import encoder_curves, separator_curves, state_section
from sepssl.representation import Encoder, load_encoder
from sepssl.representation.build import make_encoder
from sepssl.representation.embed import embed_recording
from sepssl.separation import load_separator
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import scene_config
from sepssl.training.encoder import train_encoder
from sepssl.training.monitors import read_metrics
from sepssl.training.separator import train_separator
from sepssl.training.strategy import require_one_process
from sepssl.version import __version__

# What the two encoders see; they differ in nothing else.
PAIRINGS = {
    "mixture/mixture": {"mixture_mixture": 1.0, "mixture_channel": 0.0},
    "mixture/channel": {"mixture_mixture": 0.0, "mixture_channel": 1.0},
}

INTRODUCTION = [
    "A separator was trained by mixture invariant training on unlabelled sound scenes; two encoders"
    " were then trained, for as many steps each, to associate two views of a clip: two patches of"
    " the mixture, or a patch of the mixture and a patch of one of its separated channels.",
    "The table is a demonstration. Training is a few minutes long, on one seed, and the scenes are"
    " synthetic: it shows that everything runs and what is measured, not which method is better.",
    "QbE: query by example, mean average precision. linear, mlp: macro mAP and d' of a linear"
    " classifier and of one with a hidden layer of 512 on frozen embeddings; 95 %: bootstrap"
    " interval of that mAP over the test clips.",
]
SCENES = "Scenes that nothing was trained on, their true sources, and the separator's channels."
STATES = (
    "A clip that was not trained on, and the channels of every kept state of the separator, from"
    " the untrained network to the last."
)


def train_from_scratch(
    config: ConfigDict, workdir: str | os.PathLike, verbose: bool = True
) -> QuickstartFolder:
    """Runs the whole pipeline, or what is left of it.

    Args:
        config: as `configs/from_scratch.py` makes it.
        workdir: folder of the run, new or to be continued.
        verbose: whether to print what is done, and progress.

    Returns:
        Where the results lie.

    Raises:
        InputError: if `workdir` holds a run of another configuration, or something else, or a
            strategy is "multiworker".
    """
    require_one_process([stage.train.strategy for stage in (config.separator, config.encoder)])
    paths = QuickstartFolder(RunFolder(workdir, config.to_dict(), verbose).path)
    if paths.metrics.exists() and paths.page.exists():
        if verbose:
            print(f"{paths.root}: complete already", flush=True)
        return paths
    step = _Steps(paths.root, verbose)
    step("1/5 separator", lambda: _train_separator(config, paths, verbose))
    for pairing in PAIRINGS:
        step(f"2/5 encoder, {pairing}", lambda p=pairing: _train_encoder(config, paths, p, verbose))
    results = step("3/5 evaluation", lambda: _evaluate(config, paths, verbose))
    exported = step("4/5 export", lambda: _export(paths, results))
    step("5/5 report", lambda: _report(config, paths, results, exported, step.seconds))
    with atomic_file(paths.metrics, overwrite=True) as temporary:
        record = {"results": results, "export": exported, "seconds": step.seconds}
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(paths.cache, ignore_errors=True)  # hundreds of MB, only needed to continue
    return paths


class _Steps:
    """Announces the parts and remembers how long each took, also over continued runs."""

    def __init__(self, root: pathlib.Path, verbose: bool):
        self._verbose = verbose
        self._path = root / "seconds.json"
        self.seconds = json.loads(self._path.read_text()) if self._path.exists() else {}

    def __call__(self, name: str, part: Callable):
        if self._verbose:
            print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        result = part()
        elapsed = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 1)
        with atomic_file(self._path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(self.seconds))
        return result


def _train_separator(config: ConfigDict, paths: QuickstartFolder, verbose: bool) -> None:
    stage = config.separator.copy_and_resolve_references()
    stage.data.cache = str(paths.cache)
    train_separator(stage, paths.separator, verbose)


def _train_encoder(
    config: ConfigDict, paths: QuickstartFolder, pairing: str, verbose: bool
) -> None:
    stage = config.encoder.copy_and_resolve_references()
    stage.data.cache = str(paths.cache)
    stage.views.update(PAIRINGS[pairing])
    stage.views.separators = ",".join(str(path) for path in _view_separators(config, paths))
    train_encoder(stage, _encoder(paths, pairing), verbose)


def _view_separators(config: ConfigDict, paths: QuickstartFolder) -> list[pathlib.Path]:
    states = paths.separator / "states"
    return [states / f"step-{step:07d}.keras" for step in config.view_states]


def _evaluate(
    config: ConfigDict, paths: QuickstartFolder, verbose: bool
) -> dict[str, dict[str, float | None]]:
    evaluation = config.evaluation
    counts = tuple(evaluation.clips[split] for split in ("train", "validation", "test"))
    scenes = scene_splits(scene_config(config.encoder.data), evaluation.seed, counts)
    splits = [InMemory(clips) for clips in scenes]
    keras.utils.set_random_seed(evaluation.seed)
    Encoder()  # draws seeds, on which the untrained encoder's published figures depend
    statistics, untrained = baselines(
        make_encoder(config.encoder.encoder, config.encoder.data.sample_rate)
    )
    representations = {"log-mel statistics": statistics, "untrained encoder": untrained}
    for pairing in PAIRINGS:
        encoder = load_encoder(_encoder(paths, pairing) / "final.keras")
        representations[pairing] = functools.partial(embed_recording, encoder)
    return {
        name: evaluate_on_splits(embed, splits, evaluation.seed, name, verbose)[0]
        for name, embed in representations.items()
    }


def _export(paths: QuickstartFolder, results: dict[str, dict]) -> dict:
    """Exports the encoder with the higher query-by-example score."""
    best = max(PAIRINGS, key=lambda pairing: results[pairing]["qbe_map"])
    path = _encoder(paths, best) / "final.keras"
    encoder = load_encoder(path)
    cards = []
    for folder, write in ((paths.saved_model, save_encoder), (paths.tflite, convert_encoder)):
        # Of an interrupted run: the encoder may have been another one.
        shutil.rmtree(folder, ignore_errors=True)
        cards.append(write(encoder, folder, origin_of(path)))
    return {
        "encoder": best,
        "saved_model": cards[0]["checks"],
        "tflite": cards[1]["checks"]["encoder.tflite"],
        "tensorflow": cards[0]["tensorflow"],
    }


def _report(
    config: ConfigDict, paths: QuickstartFolder, results, exported: dict, seconds: dict
) -> None:
    chance = next(iter(results.values()))["qbe_chance"]
    facts = {
        "preset": config.preset,
        "exported encoder": exported["encoder"],
        "checks of the exports in a fresh process": json.dumps(exported),
        "seconds": ", ".join(f"{name}: {value:.0f}" for name, value in seconds.items()),
        "versions": f"sepssl {__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }
    rows = [{"representation": name} | _shown(row) for name, row in results.items()]
    encoders = {
        pairing: read_metrics(_encoder(paths, pairing) / "metrics.jsonl") for pairing in PAIRINGS
    }
    sections = [
        Section("Results", table=rows),
        Section("Scenes, and their channels", SCENES, sounds=_scenes(config, paths)),
        state_section(paths.separator, "States of the separator", STATES),
        *separator_curves(read_metrics(paths.separator / "metrics.jsonl")),
        *encoder_curves(encoders, "Training of the encoders"),
        Section("Sound classes", sounds=_classes(config), folded=True),
        Section("Facts about this run", facts=facts),
    ]
    introduction = [*INTRODUCTION, f"Chance of QbE is {chance:.3f}."]
    write_page(paths.page, "sepssl from scratch", introduction, sections)


def _shown(row: dict[str, float | None]) -> dict[str, float | str | None]:
    shown: dict[str, float | str | None] = {"QbE mAP": row["qbe_map"]}
    for kind in ("linear", "mlp"):
        shown[f"{kind} mAP"] = row[f"{kind}_map"]
        shown[f"{kind} 95 %"] = f"{row[f'{kind}_map_low']:.3f} to {row[f'{kind}_map_high']:.3f}"
        shown[f"{kind} d'"] = row[f"{kind}_d_prime"]
    return shown


def _scenes(config: ConfigDict, paths: QuickstartFolder) -> list[list[Sound]]:
    """Two test scenes: the mixture, its true sources, and the channels of the last separator."""
    data = config.encoder.data
    separator = load_separator(paths.separator / "final.keras")
    test = scene_splits(scene_config(data), config.evaluation.seed, (0, 0, 100))[2]
    rows = []
    for count in (2, 3):
        scene = test.scene(int(np.argmax(test.labels.sum(axis=1) == count)))
        channels = np.asarray(separator.predict_on_batch(scene.mixture[None]))[0]
        sounds = [(f"{scene.scene_type}: {', '.join(scene.class_names)}", scene.mixture)]
        sounds += [
            (f"source: {name}", source)
            for name, source in zip(scene.class_names, scene.sources, strict=False)
        ]
        sounds += [(f"channel {i + 1}", channel) for i, channel in enumerate(channels)]
        rows.append([Sound(label, sound, data.sample_rate) for label, sound in sounds])
    return rows


def _classes(config: ConfigDict) -> list[list[Sound]]:
    rate = config.encoder.data.sample_rate
    return [
        [Sound(name, render_source(name, np.random.default_rng(0), 2 * rate, rate), rate)]
        for name in CLASS_NAMES
    ]


def _encoder(paths: QuickstartFolder, pairing: str) -> pathlib.Path:
    return paths.encoder / pairing.replace("/", "_")
