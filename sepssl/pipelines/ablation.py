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

import keras
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from sepssl.data.sources import scene_config
from sepssl.data.splits import InMemory, scene_splits
from sepssl.errors import InputError
from sepssl.evaluation.baselines import log_mel_statistics
from sepssl.evaluation.paired import paired_difference
from sepssl.evaluation.protocol import evaluate_on_splits
from sepssl.files import atomic_file, lock_folder
from sepssl.representation import load_encoder
from sepssl.representation.build import make_encoder
from sepssl.representation.embed import embed_recording
from sepssl.training.added_keys import without_added_keys
from sepssl.training.checkpoints import RunFolder
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

    def scores(self, row: str, cells: dict[int, str], metric: str) -> dict[int, float]:
        """A row's scores by seed, of the cells made with the given settings, by seed."""
        return {
            r["seed"]: r[metric]
            for r in self.records
            if r["row"] == row and cells.get(r["seed"]) == r["settings"]
        }


def run_ablation(config: ConfigDict, workdir: str | os.PathLike) -> pathlib.Path:
    """Makes the cells that are not there yet, then the table and the figure.

    Args:
        config: as in `configs/paper_ablation.py`.
        workdir: where separators, encoders and caches lie; a seed's cache is deleted when all of
            its cells are done.

    Returns:
        The folder that holds `results.jsonl` (unless `config.results` names another file),
        `table.md` and `figure.svg`.

    Raises:
        InputError: if the configuration names rows that it does not have, separator and encoder
            are of different clips, or another process works in the folder.
    """
    workdir = pathlib.Path(workdir)
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
        write = functools.partial(write_table, results, cells, config.comparisons, workdir)
        for seed in config.seeds:
            missing = [
                name
                for name in wanted
                if seed in cells[name] and not results.has(name, seed, cells[name][seed])
            ]
            if not missing:
                continue
            make = _Seed(config, seed, workdir / f"seed-{seed}")
            for number, name in enumerate(missing, start=1):
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


class _Seed:
    """Everything of one seed."""

    def __init__(self, config: ConfigDict, seed: int, folder: pathlib.Path):
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
        return train_separator(stage, self._folder / f"separator-{digest}")

    def _stage(self, part: ConfigDict) -> ConfigDict:
        stage = part.copy_and_resolve_references()
        stage.seed = stage.data.seed = self._seed
        stage.data.cache = str(self._cache)
        return stage

    def cell(self, row: dict, settings: str) -> dict[str, float]:
        """Trains the encoder of a row, if it is trained, and evaluates it."""
        baseline = row.get("baseline", "")
        keras.utils.set_random_seed(self._seed)
        if baseline:
            encoder = make_encoder(self._config.encoder.encoder)
        else:
            encoder = load_encoder(self._train(row, settings).final)
        if baseline == "log_mel_statistics":
            embed = functools.partial(log_mel_statistics, encoder.log_mel)
        else:
            embed = functools.partial(embed_recording, encoder)
        scores, _ = evaluate_on_splits(embed, self._splits, self._seed, row["name"])
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
        return train_encoder(stage, encoder_folder(self._folder.parent, row, self._seed, settings))

    def delete_cache(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)


def write_table(
    results: Results, cells: dict[str, dict[int, str]], comparisons, folder: pathlib.Path
) -> None:
    """Writes `table.md` and `figure.svg` of the cells that there are.

    Args:
        results: the cells.
        cells: of every row, in order, the settings of its cells by seed; others do not count.
        comparisons: pairs of rows.
        folder: where the files go.
    """
    scores = {
        name: {metric: results.scores(name, own, metric) for metric in METRICS}
        for name, own in cells.items()
    }
    scores = {name: of_metric for name, of_metric in scores.items() if of_metric["qbe_map"]}
    rule = f"|---|---|{'---|' * len(METRICS)}"
    lines = [f"| | seeds | {' | '.join(METRICS.values())} |", rule]
    for name, of_metric in scores.items():
        columns = [list(by_seed.values()) for by_seed in of_metric.values()]
        shown = [
            f"{np.mean(c):.3f}" + (f" ± {np.std(c, ddof=1):.3f}" if len(c) > 1 else "")
            for c in columns
        ]
        lines.append(f"| {name} | {len(columns[0])} | {' | '.join(shown)} |")
    lines += ["", f"| difference (95 %) | seeds | {' | '.join(METRICS.values())} |", rule]
    for first, second in comparisons:
        a, b = scores.get(first, {}), scores.get(second, {})
        if not a.get("qbe_map", {}).keys() & b.get("qbe_map", {}).keys():
            continue
        differences = [paired_difference(a[metric], b[metric]) for metric in METRICS]
        shown = [
            f"{d.mean:+.3f}" + (f" ({d.low:+.3f} to {d.high:+.3f})" if d.seeds > 1 else "")
            for d in differences
        ]
        lines.append(f"| {first} − {second} | {differences[0].seeds} | {' | '.join(shown)} |")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "table.md", overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with atomic_file(folder / "figure.svg", overwrite=True) as temporary:
        _draw(scores).savefig(temporary, format="svg")


def _draw(scores: dict[str, dict[str, dict[int, float]]]) -> Figure:
    """A panel per metric: rows from top to bottom, a dot per seed, a line at the mean."""
    figure = Figure(figsize=(4 + 2.6 * len(METRICS), 1 + 0.24 * len(scores)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for place, of_metric in enumerate(scores.values()):
            by_seed = list(of_metric[metric].values())
            axes.plot(by_seed, [place] * len(by_seed), "o", markersize=3, alpha=0.5, color="C0")
            axes.plot(np.mean(by_seed), place, "|", markersize=12, color="black")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(scores)), list(scores), fontsize="small")
    panels[0].invert_yaxis()
    return figure
