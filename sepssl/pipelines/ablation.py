"""A table of encoders, each trained and evaluated on several seeds, resumable cell by cell.

A seed is everything that is drawn: the scenes to train on, the separator, the encoder's weights and
batches, and the scenes to evaluate on. Rows are compared seed by seed.
"""

import functools
import gc
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Protocol

import keras
from ml_collections import ConfigDict

from sepssl.data.clips import InMemory
from sepssl.data.splits import scene_splits
from sepssl.errors import InputError
from sepssl.evaluation.baselines import baselines
from sepssl.evaluation.protocol import evaluate_on_splits
from sepssl.files import atomic_file, lock_folder
from sepssl.reports.comparison import write_table
from sepssl.representation import load_encoder
from sepssl.representation.build import make_encoder
from sepssl.representation.embed import embed_recording
from sepssl.training.added_keys import without_added_keys
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import scene_config
from sepssl.training.encoder import TRUE_SOURCES, train_encoder
from sepssl.training.monitors import read_metrics
from sepssl.training.separator import train_separator
from sepssl.version import __version__

METRICS = {"qbe_map": "QbE mAP", "linear_map": "linear mAP", "mlp_map": "MLP mAP"}


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

    def scores(self, cells: dict[str, dict[int, str]]) -> dict[str, dict[str, dict[int, float]]]:
        """Row -> metric -> seed -> score, in the order of `cells`.

        Args:
            cells: of every row, the settings of its cells by seed; other cells do not count, and
                rows without any are left out.
        """
        found = {}
        for row, settings in cells.items():
            own = [
                r
                for r in self.records
                if r["row"] == row and settings.get(r["seed"]) == r["settings"]
            ]
            if own:
                found[row] = {metric: {r["seed"]: r[metric] for r in own} for metric in METRICS}
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
            are of different clips, or another process works in the folder.
    """
    workdir = pathlib.Path(workdir)
    make_cells = make_cells or functools.partial(SeedCells, verbose=verbose)
    rows = {row["name"]: row for row in config.rows}
    wanted = [name.strip() for name in config.only.split(";") if name.strip()] or list(rows)
    for name in [*wanted, *(name for pair in config.comparisons for name in pair)]:
        if name not in rows:
            raise InputError(f"row {name!r}: expected one of {'; '.join(rows)}")
    for key in ("sample_rate", "num_clips", "clip_seconds", "ambience_range_db"):
        if config.separator.data[key] != config.encoder.data[key]:
            raise InputError(
                f"separator.data.{key}={config.separator.data[key]}, encoder.data.{key}="
                f"{config.encoder.data[key]}: expected the same, since both see the same scenes"
            )
    cells = expected_cells(config)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock_folder(workdir, wait=False):
        results = Results(config.results or workdir / "results.jsonl")

        def write() -> None:
            write_table(results.scores(cells), METRICS, config.comparisons, workdir)

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
    row = {key: value for key, value in row.items() if key not in ("name", "seeds")}
    return _digest(parts | {"row": row})


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


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
        counts = tuple(config.evaluation[split] for split in ("train", "validation", "test"))
        splits = scene_splits(scene_config(config.encoder.data), seed, counts)
        self._splits = [InMemory(clips) for clips in splits]

    @functools.cached_property
    def _separator(self) -> RunFolder:
        stage = self._stage(self._config.separator)
        digest = _digest(without_added_keys(self._config.separator.to_dict()))
        return train_separator(stage, self._folder / f"separator-{digest}", self._verbose)

    def _stage(self, part: ConfigDict) -> ConfigDict:
        stage = part.copy_and_resolve_references()
        stage.seed = stage.data.seed = self._seed
        stage.data.cache = str(self._cache)
        return stage

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
        scores, _ = evaluate_on_splits(embed, self._splits, self._seed, row["name"], self._verbose)
        keras.backend.clear_session()
        gc.collect()
        return scores

    def _train(self, row: dict, settings: str) -> RunFolder:
        stage = self._stage(self._config.encoder)
        stage.task = row.get("task", "encoder")
        for part in ("views", "objective", "train"):
            stage[part].update(row.get(part, {}))
        stage.views.separators = ",".join(
            TRUE_SOURCES
            if state == TRUE_SOURCES
            else str(self._separator.state(self._config.states[state]))
            for state in row.get("separators", ())
        )
        folder = encoder_folder(self._folder.parent, row, self._seed, settings)
        return train_encoder(stage, folder, self._verbose)

    def delete_cache(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)
