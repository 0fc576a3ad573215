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

from sepssl.atomic import atomic_file
from sepssl.errors import InputError
from sepssl.evaluation.baselines import log_mel_statistics
from sepssl.evaluation.datasets import InMemory, evaluate_on_splits, scene_splits
from sepssl.evaluation.paired import paired_difference
from sepssl.representation import load_encoder
from sepssl.representation.embed import embed_recording
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import scene_config
from sepssl.training.encoder import TRUE_SOURCES, make_encoder, train_encoder
from sepssl.training.monitors import read_metrics
from sepssl.training.separator import train_separator

METRICS = {"qbe_map": "QbE mAP", "linear_map": "linear mAP", "mlp_map": "MLP mAP"}
BASELINES = ("log_mel_statistics", "untrained_encoder")  # rows that need no training


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

    def scores(self, row: str, metric: str) -> dict[int, float]:
        """A row's scores by seed."""
        return {r["seed"]: r[metric] for r in self.records if r["row"] == row}


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
        InputError: if the configuration names rows that it does not have.
    """
    workdir = pathlib.Path(workdir)
    rows = {row["name"]: row for row in config.rows}
    wanted = [name.strip() for name in config.only.split(",") if name.strip()] or list(rows)
    named = [*wanted, *(name for pair in config.comparisons for name in pair)]
    for name in named:
        if name not in rows:
            raise InputError(f"row {name!r}: expected one of {', '.join(rows)}")
    results = Results(config.results or workdir / "results.jsonl")
    for seed in config.seeds:
        cells = {
            name: _settings(config, rows[name])
            for name in wanted
            if seed in config.seeds[: rows[name].get("seeds")]
        }
        missing = [n for n, settings in cells.items() if not results.has(n, seed, settings)]
        if missing:
            make = _Seed(config, seed, workdir / f"seed-{seed}")
            for number, name in enumerate(missing, start=1):
                print(f"\n== seed {seed}, {number}/{len(missing)}: {name}", flush=True)
                start = time.perf_counter()
                scores = make.cell(rows[name])
                results.add(
                    {
                        "row": name,
                        "seed": seed,
                        "settings": cells[name],
                        "seconds": round(time.perf_counter() - start, 1),
                    }
                    | scores
                )
                write_table(results, list(rows), config.comparisons, workdir)
            make.delete_cache()
    write_table(results, list(rows), config.comparisons, workdir)
    return workdir


def _settings(config: ConfigDict, row: dict) -> str:
    """Digest of all that a cell depends on but the seed."""
    parts = {key: config[key].to_dict() for key in ("separator", "states", "encoder", "evaluation")}
    row = {key: value for key, value in row.items() if key not in ("name", "seeds")}
    text = json.dumps(parts | {"row": row}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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
        return train_separator(stage, self._folder / "separator")

    def _stage(self, part: ConfigDict) -> ConfigDict:
        stage = part.copy_and_resolve_references()
        stage.seed = stage.data.seed = self._seed
        stage.data.cache = str(self._cache)
        return stage

    def cell(self, row: dict) -> dict[str, float]:
        """Trains the encoder of a row, if it is trained, and evaluates it."""
        baseline = row.get("baseline", "")
        keras.utils.set_random_seed(self._seed)
        encoder = make_encoder(self._config.encoder.encoder)
        if baseline == "log_mel_statistics":
            embed = functools.partial(log_mel_statistics, encoder.log_mel)
        elif baseline == "untrained_encoder":
            embed = functools.partial(embed_recording, encoder)
        else:
            encoder = load_encoder(self._train(row).final)
            embed = functools.partial(embed_recording, encoder)
        scores, _ = evaluate_on_splits(embed, self._splits, self._seed, row["name"])
        keras.backend.clear_session()
        gc.collect()
        return scores

    def _train(self, row: dict) -> RunFolder:
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
        return train_encoder(stage, self._folder / "encoders" / row["name"].replace("/", "_"))

    def delete_cache(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)


def write_table(results: Results, rows: list[str], comparisons, folder: pathlib.Path) -> None:
    """Writes `table.md` and `figure.svg` of the cells that there are."""
    lines = [
        f"| | seeds | {' | '.join(METRICS.values())} |",
        f"|---|---|{'---|' * len(METRICS)}",
    ]
    there = [name for name in rows if results.scores(name, "qbe_map")]
    for name in there:
        columns = [list(results.scores(name, metric).values()) for metric in METRICS]
        shown = [
            f"{np.mean(c):.3f}" + (f" ± {np.std(c, ddof=1):.3f}" if len(c) > 1 else "")
            for c in columns
        ]
        lines.append(f"| {name} | {len(columns[0])} | {' | '.join(shown)} |")
    lines += [
        "",
        f"| difference (95 %) | seeds | {' | '.join(METRICS.values())} |",
        f"|---|---|{'---|' * len(METRICS)}",
    ]
    for first, second in comparisons:
        if not results.scores(first, "qbe_map").keys() & results.scores(second, "qbe_map").keys():
            continue
        differences = [
            paired_difference(results.scores(first, metric), results.scores(second, metric))
            for metric in METRICS
        ]
        shown = [f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f})" for d in differences]
        lines.append(f"| {first} − {second} | {differences[0].seeds} | {' | '.join(shown)} |")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "table.md", overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with atomic_file(folder / "figure.svg", overwrite=True) as temporary:
        _draw(results, there).savefig(temporary, format="svg")


def _draw(results: Results, rows: list[str]) -> Figure:
    """A panel per metric: rows from top to bottom, a dot per seed, a line at the mean."""
    figure = Figure(figsize=(4 + 2.6 * len(METRICS), 1 + 0.24 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for place, name in enumerate(rows):
            scores = list(results.scores(name, metric).values())
            axes.plot(scores, [place] * len(scores), "o", markersize=3, alpha=0.5, color="C0")
            axes.plot(np.mean(scores), place, "|", markersize=12, color="black")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(rows)), rows, fontsize="small")
    panels[0].invert_yaxis()
    return figure
