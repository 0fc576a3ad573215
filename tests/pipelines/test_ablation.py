"""The driver of the ablation, on a table of a few cells."""

import functools
import json
import pathlib

import numpy as np
import pytest
import soundfile

from sepssl.configs import paper_ablation
from sepssl.errors import InputError
from sepssl.pipelines.ablation import (
    METRICS,
    Cells,
    Results,
    encoder_folder,
    expected_cells,
    rotated_folds,
    run_ablation,
)
from sepssl.reports.comparison import write_table
from sepssl.training.encoder import TRUE_SOURCES

DOCS = pathlib.Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results"


def tiny(**changes):
    config = paper_ablation.get_config()
    config.separator.data.update(num_clips=16, num_validation=4, clip_seconds=1.5)
    config.separator.separator.update(
        bottleneck_channels=8, conv_channels=12, dilations_per_repeat=2, repeats=1, unroll=False
    )
    config.separator.train.update(
        steps=4, batch_size=4, crop_seconds=1.0, warmup_steps=1, state_steps=(0, 4), log_every=2
    )
    config.states = {"untrained": 0, "late": 4}
    config.encoder.data.update(num_clips=16, clip_seconds=1.5)
    config.encoder.views.max_distance_seconds = 0.5
    config.encoder.encoder.update(width=4, embedding_size=16)
    config.encoder.train.update(
        steps=4, batch_size=8, warmup_steps=1, log_every=2, state_steps=(4,)
    )
    config.evaluation = {"train": 80, "validation": 60, "test": 60}
    views = paper_ablation.MIXTURE_CHANNEL
    config.rows = (
        {"name": "statistics", "baseline": "log_mel_statistics"},
        {"name": "both", "views": views, "separators": ("late", "true_sources"), "seeds": 1},
    )
    config.comparisons = (("both", "statistics"),)
    config.seeds = (3, 4)
    config.update(changes)
    return config


class Drawn(Cells):
    """Scores drawn from row and seed: what is tested is which cells are made, and when."""

    def __init__(self, made, config, seed, folder):
        self.made, self.seed, self.cache = made, seed, folder / "cache"
        self.cache.mkdir(parents=True, exist_ok=True)

    def cell(self, row, settings):
        self.made.append((row["name"], self.seed))
        if len(self.made) == 2:
            raise KeyboardInterrupt
        random = np.random.default_rng([self.seed, len(row["name"])])
        return {metric: random.uniform() for metric in METRICS}

    def delete_cache(self):
        self.cache.rmdir()


def test_cells_are_made_once_and_a_stopped_table_goes_on(tmp_path):
    made = []
    cells = functools.partial(Drawn, made)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(tiny(), tmp_path, cells)
    assert made == [("statistics", 3), ("both", 3)]
    first = (tmp_path / "results.jsonl").read_text()

    run_ablation(tiny(), tmp_path, cells)
    assert made[2:] == [("both", 3), ("statistics", 4)]
    assert (tmp_path / "results.jsonl").read_text().startswith(first)
    assert not list(tmp_path.glob("seed-*/cache"))
    run_ablation(tiny(), tmp_path, cells)
    assert len(made) == 4

    table = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1:3] for line in table[2:4]] == [
        [" statistics ", " 2 "],
        [" both ", " 1 "],
    ]
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    scores = {(r["row"], r["seed"]): r["qbe_map"] for r in records}
    difference = scores["both", 3] - scores["statistics", 3]
    assert table[-1].startswith(f"| both − statistics | 1 | {difference:+.3f} | ")
    assert "<svg" in (tmp_path / "figure.svg").read_text()

    # Another temperature: the row is trained again, beside the old one.
    changed = [dict(row) for row in tiny().rows]
    changed[1]["objective"] = {"temperature": 0.3}
    changed = tiny(rows=tuple(changed))
    run_ablation(changed, tmp_path, cells)
    assert made[4:] == [("both", 3)]
    old, new = (
        encoder_folder(tmp_path, config.rows[1], 3, expected_cells(config)["both"][3])
        for config in (tiny(), changed)
    )
    assert old != new


@pytest.mark.slow
def test_a_row_is_trained_and_a_baseline_is_not(tmp_path, capsys):
    config = tiny(seeds=(3,))
    run_ablation(config, tmp_path, verbose=False)
    assert capsys.readouterr().out == ""
    scores = Results(tmp_path / "results.jsonl").scores(expected_cells(config))
    assert list(scores) == ["statistics", "both"]
    (folder,) = tmp_path.glob("seed-3/encoders/*")
    assert folder == encoder_folder(tmp_path, config.rows[1], 3, expected_cells(config)["both"][3])
    trained = json.loads((folder / "config.json").read_text())
    assert len(list(tmp_path.glob("seed-3/separator-*/states/step-0000004.keras"))) == 1
    late, sources = trained["views"]["separators"]
    assert late.startswith("step-0000004")
    assert sources == TRUE_SOURCES
    assert trained["seed"] == trained["data"]["seed"] == 3
    assert {*scores["both"]} == {*METRICS}
    assert scores["both"] != scores["statistics"]


def test_a_cell_of_other_settings_counts_as_missing(tmp_path):
    results = Results(tmp_path / "results.jsonl")
    results.add({"row": "a", "seed": 1, "settings": "x"} | dict.fromkeys(METRICS, 0.1))
    results.add({"row": "a", "seed": 2, "settings": "x"} | dict.fromkeys(METRICS, 0.2))
    results.add({"row": "a", "seed": 1, "settings": "y"} | dict.fromkeys(METRICS, 0.3))
    again = Results(tmp_path / "results.jsonl")

    def qbe(settings):
        return again.scores({"a": settings}).get("a", {}).get("qbe_map")

    assert qbe({1: "y", 2: "x", 3: "x"}) == {1: 0.3, 2: 0.2}
    assert qbe({1: "x", 2: "x"}) == {2: 0.2}
    assert qbe({2: "y"}) is None
    assert again.has("a", 1, "y")
    assert not again.has("a", 1, "x")


def test_what_the_settings_of_a_cell_depend_on():
    settings = expected_cells(tiny())["both"][3]
    changed = tiny()
    changed.encoder.train.steps = 5
    assert expected_cells(changed)["both"][3] != settings
    renamed = {**tiny().rows[1], "name": "b"}
    assert expected_cells(tiny(seeds=(1,), rows=(renamed,)))["b"][1] == settings
    for value, same in (("float32", True), ("bfloat16", False)):
        later = tiny()
        later.encoder.train.precision = value
        assert (expected_cells(later)["both"][3] == settings) == same


def test_folds_move_on_with_the_seed():
    folds = ("1", "2", "3", "4", "5")
    assert rotated_folds(folds, 0) == {
        "train": ("1", "2", "3"),
        "validation": ("4",),
        "test": ("5",),
    }
    assert rotated_folds(folds, 3)["train"] == ("4", "5", "1")
    assert rotated_folds(folds, 3)["test"] == ("3",)
    assert rotated_folds(folds, 8) == rotated_folds(folds, 3)


def test_scenes_mixed_from_folds(tmp_path):
    """Three tones an octave apart: statistics tell them from each other, whatever is beside."""
    (tmp_path / "in").mkdir()
    lines, t = ["filename,labels,fold"], np.arange(16000) / 16000
    for fold in "12345":
        for take in range(4):
            for hz in (300, 1200, 4800):
                name = f"{fold}-{hz}{take}.wav"
                tone = 0.2 * np.sin(2 * np.pi * hz * (1 + 0.02 * take) * t)
                soundfile.write(tmp_path / "in" / name, tone, 16000)
                lines.append(f"{name},{hz},{fold}")
    (tmp_path / "in" / "labels.csv").write_text("\n".join(lines))
    config = tiny(seeds=(0,), rows=({"name": "statistics", "baseline": "log_mel_statistics"},))
    config.comparisons = ()
    with config.unlocked():
        config.folds = ("1", "2", "3", "4", "5")
        config.states.small = "small"
        config.retrieval = {"scenes": 30, "recording": r"\d-(\d+)\.", "state": "small"}
    for part in (config.separator, config.encoder):
        part.data.update(directory=f"mix:{tmp_path}/in", clip_seconds=1.0)
        part.data.mix.source_count_probabilities = (0.4, 0.4, 0.2)
        part.data.mix.part_seconds = (0.5, 1.0)
    config.evaluation = {"train": 60, "validation": 30, "test": 40}
    run_ablation(config, tmp_path / "out", verbose=False)
    (record,) = Results(tmp_path / "out" / "results.jsonl").records
    assert record["linear_map"] > 0.9
    # Alone, each source is where its query is; in a mixture it may be faint.
    assert record["scene_sources_map"] > 0.95
    assert record["scene_sources_map"] > record["scene_map"] > record["scene_chance"]
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[0].endswith(
        "| scene retrieval | by mixture or channel | by mixture or true source |"
    )
    settings = expected_cells(config)["statistics"][0]
    config.states.small = "small-mixit"
    assert expected_cells(config)["statistics"][0] != settings
    config.rows = ({"name": "trained"},)
    config.retrieval.recording = "other"
    with pytest.raises(InputError, match=r"'other' matches nothing in 5-\d+\.wav; expected each"):
        run_ablation(config, tmp_path / "refused", verbose=False)
    assert not list((tmp_path / "refused").rglob("*.keras"))  # before any training


def test_the_table_of_known_numbers(tmp_path):
    results = Results(tmp_path / "results.jsonl")
    for seed, (a, b) in enumerate([(0.5, 0.4), (0.6, 0.55)]):
        for row, score in (("a", a), ("b", b)):
            scores = dict.fromkeys(METRICS, score)
            results.add({"row": row, "seed": seed, "settings": ""} | scores)
    cells = {row: {0: "", 1: "", 2: ""} for row in "abc"}
    write_table(results.scores(cells), METRICS, (("a", "b"), ("a", "c")), tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| a | 2 | 0.550 ± 0.071 |" in table
    # t(1) = 12.706, standard error 0.025
    assert "| a − b | 2 | +0.075 (-0.243 to +0.393) |" in table
    assert "c" not in table.replace("difference", "").replace("QbE", "").replace("seeds", "")


def test_the_published_table(tmp_path):
    """The table in `docs/results` is that of the results beside it, of today's configuration,
    and docs/ablation.md quotes it."""
    config = paper_ablation.get_config()
    results = Results(RESULTS / "paper_ablation.jsonl")
    cells = expected_cells(config)
    write_table(results.scores(cells), METRICS, config.comparisons, tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert table == (RESULTS / "paper_ablation.md").read_text()
    for record in results.records:
        assert cells[record["row"]][record["seed"]] == record["settings"]
    page = (DOCS / "ablation.md").read_text()
    section = page.split("## The paper's claims")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.count("|") == 6]
    assert len(rows) > 10
    assert set(rows) <= set(table.splitlines())


def test_rows_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"row 'early': expected one of statistics; both"):
        run_ablation(tiny(only="both;early"), tmp_path)
    config = tiny()
    config.encoder.data.num_clips = 12
    with pytest.raises(
        InputError, match=r"separator\.data\.num_clips=16, encoder\.data\.num_clips=12"
    ):
        run_ablation(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_group_of_processes_is_refused(tmp_path):
    config = tiny()
    config.encoder.train.strategy = "multiworker"
    with pytest.raises(InputError, match=r"train\.strategy='multiworker': a group trains one"):
        run_ablation(config, tmp_path)
    assert not list(tmp_path.iterdir())
