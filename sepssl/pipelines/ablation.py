"""A table of encoders, each trained and evaluated on several seeds, resumable cell by cell.

A seed is everything that is drawn: the scenes to train on, the separator, the encoder's weights and
batches, and the scenes to evaluate on; of scenes mixed from sounds with folds also which folds are
for training, validation and testing. Rows are compared seed by seed.
"""

import dataclasses
import functools
import gc
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import keras
import numpy as np
from ml_collections import ConfigDict

from sepssl.data.clips import Clips, InMemory, Subset
from sepssl.data.mixtures import Mixtures
from sepssl.data.sources import open_clips
from sepssl.data.spec import mixed_sounds
from sepssl.data.splits import SPLITS, scene_splits
from sepssl.errors import InputError
from sepssl.evaluation.baselines import baselines
from sepssl.evaluation.protocol import evaluate_on_splits
from sepssl.evaluation.scene_retrieval import draw_retrieval, evaluate_scene_retrieval
from sepssl.files import atomic_file, lock_folder, sha256_of
from sepssl.progress import Progress
from sepssl.reports.comparison import write_table
from sepssl.representation import load_encoder
from sepssl.representation.build import make_encoder
from sepssl.representation.embed import embed_recording
from sepssl.separation import load_separator
from sepssl.training.added_keys import without_added_keys
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import mixtures, scene_config
from sepssl.training.encoder import TRUE_SOURCES, train_encoder
from sepssl.training.monitors import read_metrics
from sepssl.training.separator import train_separator
from sepssl.training.strategy import require_one_process
from sepssl.version import __version__
from sepssl.weights import model_file

METRICS = {"qbe_map": "QbE mAP", "linear_map": "linear mAP", "mlp_map": "MLP mAP"}
RETRIEVAL = {  # of scenes mixed from isolated sounds
    "scene_map": "scene retrieval",
    "scene_channels_map": "by mixture or channel",
    "scene_sources_map": "by mixture or true source",
}
EVALUATION_SEED = 1000  # added to a seed: other scenes than those to train on


class Results:
    """Finished cells, a JSON line each.

    A cell belongs to a row, a seed and the settings it was made with: if settings change, it is
    made again.

    Args:
        path: of the file; made with the first cell.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.records = read_metrics(self.path)

    def has(self, row: str, seed: int, settings: str) -> bool:
        return any(
            (r["row"], r["seed"], r["settings"]) == (row, seed, settings) for r in self.records
        )

    def add(self, record: dict) -> None:
        """Replaces the cell of the same row and seed, if there is one."""
        key = (record["row"], record["seed"])
        self.records = [r for r in self.records if (r["row"], r["seed"]) != key] + [record]
        with atomic_file(self.path, overwrite=True) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in self.records))

    def scores(
        self, cells: dict[str, dict[int, str]], metrics: Iterable[str] = tuple(METRICS)
    ) -> dict[str, dict[str, dict[int, float]]]:
        """Row -> metric -> seed -> score, in the order of `cells`.

        Args:
            cells: of every row, the settings of its cells by seed; other cells do not count, and
                rows without any are left out.
            metrics: which scores.
        """
        found = {}
        for row, settings in cells.items():
            own = [
                r
                for r in self.records
                if r["row"] == row and settings.get(r["seed"]) == r["settings"]
            ]
            if own:
                found[row] = {metric: {r["seed"]: r[metric] for r in own} for metric in metrics}
        return found


def run_ablation(
    config: ConfigDict,
    workdir: str | os.PathLike,
    make_cells: Callable[[ConfigDict, int, pathlib.Path], "Cells"] | None = None,
    verbose: bool = True,
) -> pathlib.Path:
    """Makes the cells that are not there yet, then the table and the figure.

    Args:
        config: as in `configs/paper_ablation.py`.
        workdir: where separators, encoders and caches lie; a seed's cache is deleted when all of
            its cells are done.
        make_cells: what makes the cells of a seed, of (config, seed, folder); `SeedCells` by
            default.
        verbose: whether to print what is done, and progress.

    Returns:
        The folder that holds `results.jsonl` (unless `config.results` names another file),
        `table.md` and `figure.svg`.

    Raises:
        InputError: if the configuration names rows that it does not have, separator and encoder
            are of different clips, a strategy is "multiworker", or another process works in the
            folder.
    """
    workdir = pathlib.Path(workdir)
    make_cells = make_cells or functools.partial(SeedCells, verbose=verbose)
    rows = {row["name"]: row for row in config.rows}
    wanted = [name.strip() for name in config.only.split(";") if name.strip()] or list(rows)
    for name in [*wanted, *(name for pair in config.comparisons for name in pair)]:
        if name not in rows:
            raise InputError(f"row {name!r}: expected one of {'; '.join(rows)}")
    for key in ("directory", "sample_rate", "num_clips", "clip_seconds", "ambience_range_db"):
        if config.separator.data[key] != config.encoder.data[key]:
            raise InputError(
                f"separator.data.{key}={config.separator.data[key]}, encoder.data.{key}="
                f"{config.encoder.data[key]}: expected the same, since both see the same scenes"
            )
    stages = [config.separator, config.encoder, *config.rows]
    require_one_process([stage.get("train", {}).get("strategy") for stage in stages])
    cells = expected_cells(config)
    metrics = METRICS | (RETRIEVAL if config.get("retrieval") else {})
    workdir.mkdir(parents=True, exist_ok=True)
    with lock_folder(workdir, wait=False):
        results = Results(config.results or workdir / "results.jsonl")

        def write() -> None:
            write_table(results.scores(cells, metrics), metrics, config.comparisons, workdir)

        for seed in config.seeds:
            missing = [
                name
                for name in wanted
                if seed in cells[name] and not results.has(name, seed, cells[name][seed])
            ]
            if not missing:
                continue
            make = make_cells(config, seed, workdir / f"seed-{seed}")
            for number, name in enumerate(missing, start=1):
                if verbose:
                    print(f"\n== seed {seed}, {number}/{len(missing)}: {name}", flush=True)
                start = time.perf_counter()
                scores = make.cell(rows[name], cells[name][seed])
                seconds = round(time.perf_counter() - start, 1)
                cell = {"row": name, "seed": seed, "settings": cells[name][seed]}
                results.add(cell | {"version": __version__, "seconds": seconds} | scores)
                write()
            make.delete_cache()
        write()
    return workdir


def expected_cells(config: ConfigDict) -> dict[str, dict[int, str]]:
    """Of every row, the settings of the cells that it should have, by seed."""
    return {
        row["name"]: dict.fromkeys(config.seeds[: row.get("seeds")], _settings(config, row))
        for row in config.rows
    }


def encoder_folder(workdir: pathlib.Path, row: dict, seed: int, settings: str) -> pathlib.Path:
    """Where the encoder of a cell lies."""
    name = f"{row['name'].replace('/', '_')}-{settings}"
    return workdir / f"seed-{seed}" / "encoders" / name


def _settings(config: ConfigDict, row: dict) -> str:
    """Digest of all that a cell depends on except the seed.

    Keys added since the first results, at the values that change nothing, leave it as it is.
    """
    parts = {key: config[key].to_dict() for key in ("separator", "states", "encoder", "evaluation")}
    parts = without_added_keys(parts)
    for key in ("folds", "retrieval"):
        if config.get(key):
            parts[key] = config.to_dict()[key]
    parts["states"] = {
        name: _separator_digest(state) if isinstance(state, str) else state
        for name, state in parts["states"].items()
    }
    row = {key: value for key, value in row.items() if key not in ("name", "seeds")}
    return _digest(parts | {"row": row})


def _separator_digest(reference: str) -> str:
    return sha256_of(model_file(reference, "Separator"))


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def rotated_folds(folds: Sequence[str], seed: int) -> dict[str, tuple[str, ...]]:
    """Folds for each split: for seed 0 the last for testing, the one before for validation.

    For each further seed, the folds for testing and validation move on by one, cyclically.
    """
    turn = seed % len(folds)
    turned = (*folds[turn:], *folds[:turn])
    return {"train": turned[:-2], "validation": turned[-2:-1], "test": turned[-1:]}


class Cells(Protocol):
    """What makes the cells of one seed."""

    def cell(self, row: dict, settings: str) -> dict[str, float | None]:
        """Scores of a row, a value for each of `METRICS` and more."""

    def delete_cache(self) -> None:
        """Called when all cells of the seed are done."""


class SeedCells(Cells):
    """Makes the cells of one seed; its scenes and its separator are made once.

    Args:
        config: as in `configs/paper_ablation.py`.
        seed: the seed.
        folder: where the separator, the encoders and the cache of this seed lie.
        verbose: whether to show progress.
    """

    def __init__(self, config: ConfigDict, seed: int, folder: pathlib.Path, verbose: bool = True):
        self._verbose = verbose
        self._config = config
        self._seed = seed
        self._folder = folder
        self._cache = folder / "cache"
        folds = config.get("folds")
        self._folds = rotated_folds(folds, seed) if folds else {}
        if config.get("retrieval"):
            _ = self.retrieval_clips  # what is wrong with the sounds is said before any training
        self._splits = [InMemory(clips) for clips in self.evaluation_clips()]

    @functools.cached_property
    def _separator(self) -> RunFolder:
        stage = self.stage(self._config.separator)
        digest = _digest(without_added_keys(self._config.separator.to_dict()))
        return train_separator(stage, self._folder / f"separator-{digest}", self._verbose)

    def stage(self, part: ConfigDict) -> ConfigDict:
        """The configuration of the seed's separator or of an encoder, from one of all seeds."""
        stage = part.copy_and_resolve_references()
        stage.seed = stage.data.seed = self._seed
        stage.data.cache = str(self._cache)
        if self._folds:
            stage.data.mix.folds = ",".join(self._folds["train"])
            stage.data.mix.validation_folds = ",".join(self._folds["validation"])
        return stage

    def evaluation_clips(self) -> Sequence[Clips]:
        """Scenes for training, validation and testing of the classifiers."""
        data = self._config.encoder.data
        counts = {split: self._config.evaluation[split] for split in SPLITS}
        if not mixed_sounds(data.directory):
            return scene_splits(scene_config(data), self._seed, tuple(counts.values()))
        scenes = self._mixtures(counts)
        clips = open_clips(data.directory, data.sample_rate, labels=True, mixtures=scenes)
        return [Subset(clips, np.flatnonzero(np.array(clips.splits) == split)) for split in SPLITS]

    def _mixtures(self, counts: dict[str, int]) -> Mixtures:
        seed = self._seed + EVALUATION_SEED
        of_training = mixtures(self.stage(self._config.encoder).data)
        return dataclasses.replace(of_training, counts=counts, seed=seed, folds=self._folds)

    @functools.cached_property
    def retrieval_clips(self) -> tuple[Clips, Clips]:
        """Queries, and scenes in which they are not heard."""
        data, retrieval = self._config.encoder.data, self._config.retrieval
        folder = mixed_sounds(data.directory)
        sounds = open_clips(folder, data.sample_rate, labels=True)
        scenes = self._mixtures({"test": retrieval.scenes})
        rooms = scenes.config.rooms
        room_responses = open_clips(rooms, data.sample_rate) if rooms else None
        queries, mixed = draw_retrieval(sounds, scenes, folder, retrieval.recording, room_responses)
        return InMemory(queries), InMemory(mixed)

    @functools.cached_property
    def _channels(self) -> list[np.ndarray]:
        """Of the scenes for retrieval, at half the precision: the files of a seed in memory."""
        scenes = self.retrieval_clips[1]
        separator = load_separator(self._state(self._config.retrieval.state))
        with Progress("separating", len(scenes), "scene", verbose=self._verbose) as progress:
            channels = []
            for index in range(len(scenes)):
                found = separator.separate(scenes.read(index), scenes.sample_rate)
                channels.append(found.astype(np.float16))
                progress.update()
        return channels

    def cell(self, row: dict, settings: str) -> dict[str, float | None]:
        """Trains the encoder of a row, if it is trained, and evaluates it."""
        baseline = row.get("baseline", "")
        keras.utils.set_random_seed(self._seed)
        if baseline:
            config = self._config.encoder
            untrained = make_encoder(config.encoder, config.data.sample_rate)
            embed = getattr(baselines(untrained), baseline)
        else:
            encoder = load_encoder(self._train(row, settings).final)
            embed = functools.partial(embed_recording, encoder)
        name = row["name"]
        scores, _ = evaluate_on_splits(embed, self._splits, self._seed, name, self._verbose)
        if self._config.get("retrieval"):
            queries, scenes = self.retrieval_clips
            separated = {
                "channels": lambda index: self._channels[index].astype(np.float32),
                "sources": lambda index: scenes.read_with_sources(index)[1],
            }
            scores |= evaluate_scene_retrieval(
                embed, queries, scenes, separated, self._seed, name, self._verbose
            )
        keras.backend.clear_session()
        gc.collect()
        return scores

    def encoder_stage(self, row: dict) -> ConfigDict:
        """The configuration of the seed's encoder of a row, without separators."""
        stage = self.stage(self._config.encoder)
        stage.task = row.get("task", "encoder")
        for part in ("data", "views", "encoder", "objective", "train"):
            stage[part].update(row.get(part, {}))
        return stage

    def _train(self, row: dict, settings: str) -> RunFolder:
        stage = self.encoder_stage(row)
        stage.views.separators = ",".join(
            TRUE_SOURCES if state == TRUE_SOURCES else self._state(state)
            for state in row.get("separators", ())
        )
        folder = encoder_folder(self._folder.parent, row, self._seed, settings)
        return train_encoder(stage, folder, self._verbose)

    def _state(self, name: str) -> str:
        """The file of a kept state of the seed's own separator, or what another is called."""
        state = self._config.states[name]
        return state if isinstance(state, str) else str(self._separator.state(state))

    def delete_cache(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)
