import csv
import json
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from absl import flags

from sepssl.cli import classify
from sepssl.cli.main import execute, parse
from sepssl.data.annotations import RecordingMatch, read_annotations
from sepssl.errors import InputError
from sepssl.evaluation.window_classifier import load_classifier
from sepssl.index.rows import StoredRows, read_rows
from sepssl.index.store import DATABASE, Rows, WindowStore
from sepssl.index.tables import write_table
from sepssl.index.vectors import CONFIG_KEY, update_vectors, vectors_config
from sepssl.pipelines.classify import (
    detections,
    suggest_windows,
    windows_of,
    write_detections,
)

RATE, DIM, COUNT, WINDOWS = 8000, 8, 12, 9
SETTINGS = {"encoder": "0123", "sample_rate": RATE, "window_samples": RATE, "pool": "window"}


def vectors_of(seed):
    """Of windows of 1 s every half; from 2 s on, those of odd recordings are near one direction."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(COUNT, WINDOWS, DIM)).astype(np.float32)
    vectors[1::2, 4:, 0] += 6.0
    return vectors


def make(folder, settings, store_only=False, seed=0):
    """An index, or a file beside its journal, of COUNT recordings of 5 s."""
    table = folder.suffix == ".parquet"
    database = folder.with_name(f"{folder.name}.journal") if table else folder
    database.mkdir()
    sounds = folder.parent / "sounds"
    sounds.mkdir(exist_ok=True)
    names = [f"{'odd' if i % 2 else 'even'}/{i}.wav" for i in range(COUNT)]
    with WindowStore(database, settings) as store:
        paths = [str(sounds / name) for name in names]
        added = store.add_recordings(str(sounds), names, paths, [0.0] * COUNT)
        starts = 0.5 * np.arange(WINDOWS)
        zero = np.zeros(WINDOWS)
        for recording, path, vectors in zip(added, paths, vectors_of(seed), strict=True):
            (sounds / "odd").mkdir(exist_ok=True)
            (sounds / "even").mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * np.sin(np.arange(5 * RATE)), RATE)
            rows = Rows(starts, starts + 1, zero.astype(int), zero, vectors)
            store.append(recording.id, rows)
            store.finish(recording.id, "", 5.0)
        if table:
            write_table(folder, store, DIM)
        else:
            store.set_metadata(CONFIG_KEY, vectors_config(DIM))
            update_vectors(store, DIM)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classify")
    make(folder / "index", SETTINGS)
    (folder / "labels").mkdir()
    for i in range(0, COUNT - 2):  # the last two are not labelled
        text = "2.0\t5.0\towl\n" if i % 2 else ""
        (folder / "labels" / f"{i}.txt").write_text(text)
    return folder


def run(capsys, *arguments):
    values = flags.FlagValues()
    parse(classify, values, ["sepssl-classify", *map(str, arguments)])
    status = execute(classify, values)
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def trained(made):
    values = flags.FlagValues()
    arguments = [f"--index={made}/index", f"--labels={made}/labels", f"--output={made}/owl.npz"]
    parse(classify, values, ["sepssl-classify", "train", *arguments])
    assert execute(classify, values) == 0
    return made


def test_training_from_label_tracks(trained):
    record = json.loads((trained / "owl.json").read_text())
    (owl,) = record["classes"]
    # From 2 s on: windows at 2.0 to 4.0; that at 1.5 shares half of itself.
    assert (owl["windows"], owl["recordings"]) == (5 * 6, 5)
    assert owl["negatives"] == 10 * WINDOWS - 5 * 6 - 0
    assert record["settings"] == SETTINGS
    assert 0.6 < owl["low"] < owl["average_precision"] < owl["high"] <= 1


def test_scores_and_detections_in_every_form(trained, capsys, tmp_path):
    common = ("apply", f"--index={trained}/index", f"--classifier={trained}/owl.npz")
    outputs = [f"--detections={tmp_path}/{name}" for name in ("d.csv", "d.selections.txt", "d")]
    scores = f"--scores={tmp_path}/s.csv"
    assert run(capsys, *common, *outputs, scores, "--threshold=0.5")[0] == 0
    run(capsys, *common, f"--scores={tmp_path}/s.parquet")
    classifier = load_classifier(trained / "owl.npz")
    vectors = vectors_of(0).reshape(-1, DIM)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    unit = unit.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected, _ = classifier.scores(unit, np.arange(len(unit)))
    table = list(csv.DictReader((tmp_path / "s.csv").open()))
    np.testing.assert_allclose([float(row["owl"]) for row in table], expected[:, 0], atol=1e-5)
    assert [row["file"] for row in table[::WINDOWS]][:3] == [
        "even/0.wav",
        "odd/1.wav",
        "even/2.wav",
    ]
    columns = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pydict()
    np.testing.assert_allclose(columns["owl"], expected[:, 0], atol=1e-5)
    assert columns["start"] == [float(row["start"]) for row in table]

    # Runs of windows at or above the threshold, worked out by hand.
    hits = expected[:, 0].reshape(COUNT, WINDOWS) >= 0.5
    runs = []
    for i, row in enumerate(hits):
        text = "".join("x" if hit else "." for hit in row)
        # Of two windows of 1 s every half second, those one apart still touch.
        for found in re.finditer(r"x(\.?x)*", text):
            first, last = found.start(), found.end() - 1
            best = expected[:, 0].reshape(COUNT, WINDOWS)[i, first : last + 1].max()
            runs.append((i, 0.5 * first, 0.5 * last + 1, best))
    assert 6 <= len(runs) <= 12
    rows = list(csv.DictReader((tmp_path / "d.csv").open()))
    assert [row["file"].split("/")[1] for row in rows] == [f"{i}.wav" for i, *_ in runs]
    found = [[float(row[key]) for key in ("start", "end", "score")] for row in rows]
    np.testing.assert_allclose(found, [run[1:] for run in runs], atol=1e-5)
    assert {row["label"] for row in rows} == {"owl"}

    # What is written is read again as labels.
    selections = read_annotations(tmp_path / "d.selections.txt")
    assert [a[1:4] for a in selections] == [(s, e, "owl") for _, s, e, _ in runs]
    assert all(a.recording.startswith(str(trained / "sounds")) for a in selections)
    assert len(read_annotations(tmp_path / "d")) == len(runs)
    assert (tmp_path / "d" / "odd" / "1.wav.txt").exists()
    # All outputs are checked before the first is written.
    (tmp_path / "e.csv").mkdir()
    for first, second, message in (
        (f"--scores={tmp_path}/t.csv", "d.txt", "d.txt: a label track belongs to one recording, "),
        (f"--detections={tmp_path}/t.csv", "t.csv", "t.csv: is named twice"),
        (f"--scores={tmp_path}/t.csv", "t.csv", "t.csv: is named twice"),
        (f"--scores={tmp_path}/t.csv", "d/../t.csv", "t.csv: is the same place as "),
        (f"--scores={tmp_path}/t/t.csv", "t", "t.csv: lies in "),
        (f"--scores={tmp_path}/t.csv", "e.csv", "e.csv: is a folder"),
    ):
        status, _, err = run(capsys, *common, first, f"--detections={tmp_path}/{second}")
        assert (status, message in err) == (1, True), err
        assert not (tmp_path / "t.csv").exists()


def test_parts_of_files_and_files_elsewhere(tmp_path):
    """As a manifest names them: in any order, with any path."""
    names = ["/far/a.wav#10-12", "/far/a.wav#0-2", "../a.wav", "b/a.wav"]
    paths = ["/far/a.wav", "/far/a.wav", "/near/a.wav", "/near/c/b/a.wav"]
    recording = np.array([0, 0, 1, 1, 2, 3])
    starts = np.array([10.0, 11.0, 0.0, 1.0, 0.0, 0.0])
    zero, vectors = np.zeros(6, int), np.eye(6, 8, dtype=np.float32)
    rows = StoredRows(
        "x", names, paths, recording, starts, starts + 1, zero, 0.0 * zero, np.arange(6),
        vectors, None, {},
    )  # fmt: skip
    scores = np.array([[0.9], [0.8], [0.7], [0.95], [0.6], [0.6]], np.float32)
    found = detections(windows_of(rows), scores, np.arange(6)[:, None], ["owl"], np.array([0.5]))
    assert [(d.recording, d.start, d.end) for d in found] == [
        (names[1], 0.0, 2.0),
        (names[0], 10.0, 12.0),
        (names[2], 0.0, 1.0),
        (names[3], 0.0, 1.0),
    ]
    np.testing.assert_allclose([d.score for d in found], [0.95, 0.9, 0.6, 0.6])
    # A table of detections is read again, where several recordings have the end of a path too.
    write_detections(tmp_path / "found.csv", found)
    match = RecordingMatch(names, [*paths[:2], "/near/a.wav", "/near/c/b/a.wav"])
    again = [match.find(a) for a in read_annotations(tmp_path / "found.csv")]
    assert again == [paths[0], paths[0], "/near/a.wav", "/near/c/b/a.wav"]
    (tmp_path / "found.csv").unlink()
    write_detections(tmp_path / "out" / "tracks", found)
    written = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(written) == 4
    assert all(p.is_relative_to(tmp_path / "out" / "tracks") for p in written)


def test_classes_that_cannot_be_learned_are_left_out(made, capsys, tmp_path):
    labels = "file,start,end,label\n"
    labels += "".join(f"odd/{i}.wav,2,5,owl\nodd/{i}.wav,0,5,rain\n" for i in (1, 3))
    (tmp_path / "l.csv").write_text(f"{labels}odd/1.wav,90,91,fox\ngone.wav,1,2,cat\n")
    common = ("train", f"--index={made}/index", f"--labels={tmp_path}/l.csv")
    status, out, _ = run(capsys, *common, f"--output={tmp_path}/c.npz")
    assert status == 0
    assert load_classifier(tmp_path / "c.npz").classes == ("owl",)
    reasons = {
        "cat": "no window is known to be with it",
        "fox": "no window is known to be with it",
        "rain": "no window is known to be without it",
    }
    assert json.loads((tmp_path / "c.json").read_text())["classes_left_out"] == reasons
    for label, reason in reasons.items():
        assert f"left out: {label}: {reason}\n" in out


def test_rows_of_files_and_of_other_encoders(trained, capsys, tmp_path):
    table = make(tmp_path / "rows.parquet", SETTINGS)
    train = ("train", f"--labels={trained}/labels", f"--index={trained}/index")
    apply = ("apply", f"--classifier={trained}/owl.npz", f"--scores={tmp_path}/s.csv")
    assert run(capsys, *apply, f"--index={table}")[0] == 0
    from_index, from_file = read_rows(trained / "index"), read_rows(table)
    np.testing.assert_allclose(from_file.vectors, from_index.vectors, atol=1e-3)
    assert from_file.settings == SETTINGS
    assert from_file.names == from_index.names
    np.testing.assert_array_equal(from_file.starts, from_index.starts)
    for number, (key, value) in enumerate((("encoder", "4567"), ("window_samples", 2 * RATE))):
        other = make(tmp_path / f"other{number}", SETTINGS | {key: value})
        message = f"{other}: holds rows made with {key}={value}"
        _, _, err = run(capsys, *train, f"--index={other}", f"--output={tmp_path}/x.npz")
        assert f"{message}, {trained}/index with {SETTINGS[key]}" in err
        (tmp_path / "s.csv").unlink(missing_ok=True)
        _, _, err = run(capsys, *apply, f"--index={other}")
        assert f"{message}, {trained}/owl.npz with {SETTINGS[key]}" in err


def test_annotations_of_the_index_count(made, capsys, tmp_path):
    index = make(tmp_path / "index", SETTINGS)
    database = sqlite3.connect(index / DATABASE)
    for recording in range(1, COUNT + 1):  # the second is odd/1.wav
        spans = [(3.0, 4.0, 1)] if recording % 2 == 0 else [(0.0, 1.0, 0)]
        for start, end, kind in spans:
            offsets = np.array([start, end], "<f8").tobytes()
            database.execute(
                "INSERT INTO annotations (recording_id, offsets, label, label_type, provenance) "
                "VALUES (?, ?, 'owl', ?, 'me')",
                (recording, offsets, kind),
            )
    database.commit()
    database.close()
    output = tmp_path / "owl.npz"
    status, out, _ = run(capsys, "train", f"--index={index}", f"--output={output}")
    assert status == 0
    (owl,) = json.loads(output.with_suffix(".json").read_text())["classes"]
    # [3, 4] and the windows that share half with it; [0, 1] and the one that shares half.
    assert (owl["windows"], owl["negatives"]) == (6 * 3, 6 * 2)
    assert re.search(r"owl +18 +6 ", out)
    status, _, err = run(capsys, "train", f"--index={made}/index", f"--output={tmp_path}/x.npz")
    assert (status, "there are no labels; expected --labels" in err) == (1, True)


def test_suggestions_are_uncertain_and_differ(trained):
    windows = windows_of(read_rows(trained / "index"))
    vectors = windows.rows.vectors
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(len(vectors), 2)).astype(np.float32)
    thresholds = np.array([0.5, 0.2])
    odds = np.log(scores / (1 - scores)) - np.log(thresholds / (1 - thresholds))
    order = np.argsort(np.abs(odds).min(axis=1))[:20]
    chosen = [order[0]]
    while len(chosen) < 4:
        distances = 1 - (vectors[order] @ vectors[chosen].T).max(axis=1)
        chosen.append(order[np.argmax(distances)])
    found = suggest_windows(windows, 4, scores, thresholds)
    np.testing.assert_array_equal(found, chosen)
    # Labelled windows are passed over, and recordings that were labelled as a whole.
    labels = read_annotations(trained / "labels")
    found = suggest_windows(windows, 100, scores, thresholds, labels)
    assert set(windows.rows.recording[windows.first[found]].tolist()) == {COUNT - 2, COUNT - 1}
    assert len(found) == len(set(found.tolist())) == 2 * WINDOWS
    files = [a._replace(recording=f, label="") for a in labels[:1] for f in windows.files]
    with pytest.raises(InputError, match="all windows are labelled"):
        suggest_windows(windows, 1, scores, thresholds, files)


def test_suggestions_in_every_form(trained, capsys, tmp_path):
    common = ("suggest", f"--index={trained}/index", "--count=3")
    for output in ("s.csv", "s.selections.txt", "s.html"):
        status, _, err = run(
            capsys, *common, f"--classifier={trained}/owl.npz", f"--output={tmp_path}/{output}"
        )
        assert status == 0, err
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    page = (tmp_path / "s.html").read_text()
    shown = [json.loads(text) for text in re.findall(r"data-window='(.*?)'", page)]
    assert [[row["file"], row["start"], row["end"], row["window"]] for row in rows] == [
        list(map(str, cells)) for cells in shown
    ]
    assert page.count("data:audio/wav;base64,") == 3
    assert 'classes = ["owl"]' in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    # Nothing is filled in yet: no label in the table, "none" would be one in the CSV file.
    assert read_annotations(tmp_path / "s.selections.txt") == []
    run(capsys, *common, f"--output={tmp_path}/first.csv", f"--labels={trained}/labels")
    assert len(list(csv.DictReader((tmp_path / "first.csv").open()))) == 3


def test_labels_of_which_no_window_is_there(made, capsys, tmp_path):
    rows = ("0.wav,20,30,owl", "9.wav,21,22,owl", "1.wav,0,1,-")
    (tmp_path / "late.csv").write_text("\n".join(("file,start,end,label", *rows)) + "\n")
    arguments = (f"--index={made}/index", f"--labels={tmp_path}/late.csv")
    status, _, err = run(capsys, "train", *arguments, f"--output={tmp_path}/c.npz")
    message = "has no window with sound for any of 2 labels; the first: "
    assert f"{tmp_path}/late.csv, line 2: 0.wav at 20 s; expected recordings of" in err
    assert (status, message in err) == (1, True), err


def test_labels_without_recording_are_named_where_the_others_do_not_suffice(made, capsys, tmp_path):
    rows = ("odd/1.wav,0,5,owl", r"C:\gone\90.wav,1,2,owl", "80.wav,1,2,owl")
    (tmp_path / "l.csv").write_text("\n".join(("file,start,end,label", *rows)) + "\n")
    arguments = (f"--index={made}/index", f"--labels={tmp_path}/l.csv", "--unlabelled=ignore")
    status, _, err = run(capsys, "train", *arguments, f"--output={tmp_path}/c.npz")
    assert status == 1
    assert (
        "class owl: no window is known to be without it; the index has no window with sound for 2 "
        f"labels, the first: {tmp_path}/l.csv, line 3: C:\\gone\\90.wav at 1 s; expected" in err
    )


def test_what_cannot_be(trained, capsys, tmp_path):
    index, labels = f"--index={trained}/index", f"--labels={trained}/labels"
    classifier = f"--classifier={trained}/owl.npz"
    for arguments, message in (
        (("train", index, labels), "--output is required"),
        (
            ("train", index, labels, "--output=x.csv"),
            "x.csv: expected a file name that ends in .npz",
        ),
        (("train", index, labels, f"--output={trained}/owl.npz"), "owl.npz: exists already"),
        (("train", index, labels, "--count=3"), "--count: is for suggest, not for train"),
        (("train", "--index=none", labels, "--output=x.npz"), "none: does not exist"),
        (("apply", index, classifier), "expected --scores, --detections, or both"),
        (("apply", index, classifier, "--scores=x.csv", "--threshold=nan"), "expected 0 to 1"),
        (("apply", index, "--scores=x.csv"), "--classifier is required"),
        (("apply", index, "--output=x.csv"), "not for apply; expected --detections or --scores"),
        (("apply", index, index, classifier, "--scores=x.csv"), "apply takes one"),
        (("suggest", index, "--output=x.txt"), "x.txt: expected a name that ends in .html"),
    ):
        status, _, err = run(capsys, *arguments)
        assert (status, message in err) == (1, True), err
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"bad.npz: cannot be read"):
        read_rows(tmp_path / "bad.npz")


def test_no_tensorflow(trained, tmp_path):
    script = """
import sys
from absl import flags
from sepssl.cli import classify
from sepssl.cli.main import execute, parse
index, labels, classifier, folder = sys.argv[1:]
for task in (
    ["train", labels, f"--output={folder}/c.npz"],
    ["apply", classifier, f"--detections={folder}/d.csv"],
    ["suggest", classifier, f"--output={folder}/s.html", "--count=1"],
):
    values = flags.FlagValues()
    parse(classify, values, ["sepssl-classify", *task, index])
    assert execute(classify, values) == 0
    assert not {"tensorflow", "keras"} & set(sys.modules), task
"""
    arguments = [f"--index={trained}/index", f"--labels={trained}/labels"]
    arguments += [f"--classifier={trained}/owl.npz", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
