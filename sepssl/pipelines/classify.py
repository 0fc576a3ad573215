"""Labels and rows of windows in, a classifier out; its scores, and what to label next."""

import dataclasses
import os
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from sepssl.audio.files import audio_info, read_audio
from sepssl.data.annotations import Annotation, WindowLabels, label_windows
from sepssl.errors import InputError
from sepssl.evaluation.window_classifier import (
    ClassReport,
    WindowClassifier,
    missing_windows,
    train_classifier,
)
from sepssl.files import (
    atomic_file,
    atomic_folder,
    printable,
    require_apart,
    require_new,
    write_csv,
    write_text,
)
from sepssl.index.output import is_index
from sepssl.index.rows import StoredRows, joined, read_rows, require_same_rows
from sepssl.index.search import WindowIndex
from sepssl.pipelines.search import highest_hz
from sepssl.progress import counted
from sepssl.reports.found import Sound
from sepssl.reports.label_page import Candidate, write_candidates_csv, write_label_page
from sepssl.reports.selections import Selection, audacity_labels, raven_table
from sepssl.version import __version__

if typing.TYPE_CHECKING:
    from sepssl.representation.encoder import Encoder

DETECTIONS = "a name that ends in .csv, .selections.txt or .txt, or a new folder's"
SUGGESTIONS = "a name that ends in .html, .selections.txt or .csv"
_UNCERTAIN = 5  # times as many windows as are wanted are looked at; our choice


class Windows(NamedTuple):
    """Windows of an index or a file, each with one or several rows.

    Attributes:
        rows: all rows.
        of: int64 [rows], the window of each row.
        first: int64 [windows], the first row of each window.
    """

    rows: StoredRows
    of: np.ndarray
    first: np.ndarray

    @property
    def names(self) -> list[str]:
        return [self.rows.names[number] for number in self.rows.recording[self.first]]

    @property
    def files(self) -> list[str]:
        files = self.rows.files
        return [files[number] for number in self.rows.recording[self.first]]

    @property
    def starts(self) -> np.ndarray:
        return self.rows.starts[self.first]

    @property
    def ends(self) -> np.ndarray:
        return self.rows.ends[self.first]


class Detection(NamedTuple):
    """A stretch of windows, one after the other, that have a class.

    Attributes:
        recording: its name.
        path: its file, "" if not known.
        start, end: in seconds from the beginning of the file.
        label: the class.
        score: the largest probability.
        channel: 0, or the channel that has it.
    """

    recording: str
    path: str
    start: float
    end: float
    label: str
    score: float
    channel: int


def windows_of(rows: StoredRows) -> Windows:
    """The windows that rows belong to."""
    of = rows.windows()
    return Windows(rows, of, np.flatnonzero(np.diff(of, prepend=-1)))


def index_annotations(source: str | os.PathLike) -> list[Annotation]:
    """What perch-hoplite's tools have noted in an index; nothing of a file."""
    if not is_index(source):
        return []
    present = {0: False, 1: True}  # hoplite's types of labels; others are uncertain
    return [
        Annotation(file, start, end, label, present.get(kind), True, f"annotations of {source}")
        for file, start, end, label, kind in WindowIndex(source).annotations()
    ]


def train_on_labels(
    sources: Sequence[str | os.PathLike],
    annotations: Sequence[Annotation],
    rows: str = "mixture",
    unlabelled: str = "negative",
    seed: int = 0,
) -> tuple[WindowClassifier, list[ClassReport], WindowLabels]:
    """Trains a classifier on the windows that annotations speak of.

    Args:
        sources: indexes, or files that sepssl-embed has written.
        annotations: labels; those in the indexes count as well.
        rows: "mixture", or "both" it and the channels of a window, of which the best counts.
        unlabelled: see `label_windows`.
        seed: of the folds and the bootstrap.

    Returns:
        The classifier and the reports of its classes; what is known of windows, also of classes
        that are left out, see `left_out`.

    Raises:
        InputError: if the sources were made differently, there is nothing to learn from, or a
            label may be of several recordings.
    """
    windows = windows_of(joined([read_rows(source, rows) for source in sources]))
    annotations = [*annotations, *(a for source in sources for a in index_annotations(source))]
    if not annotations:
        raise InputError(
            "there are no labels; expected --labels with rows that have one, or annotations in the "
            "index"
        )
    found = _labels(windows, annotations, unlabelled)
    _, groups = np.unique(windows.files, return_inverse=True)
    about = {
        "rows": rows,
        "settings": windows.rows.settings,
        "models": windows.rows.models,
        "sources": [str(source) for source in sources],
        "unlabelled": unlabelled,
        "seed": seed,
        "sepssl": __version__,
    }
    labels, classes = found.labels, found.classes
    passed_over = [a for a in (*found.outside, *found.unmatched) if a.label and a.present]
    if passed_over and len(passed_over) == sum(bool(a.label and a.present) for a in annotations):
        first = passed_over[0]
        count = counted(len(passed_over), "label")
        raise InputError(
            f"the index has no window with sound for any of {count}; the first: "
            f"{first.where}: {first.recording} at {first.start:g} s; expected recordings of the "
            "index, and times within them"
        )
    reasons = left_out(found)
    learned = [name not in reasons for name in classes]
    if passed_over and reasons and not any(learned):
        first, (name, reason) = passed_over[0], next(iter(reasons.items()))
        raise InputError(
            f"class {name}: {reason}; the index has no window with sound for "
            f"{counted(len(passed_over), 'label')}, the first: {first.where}: {first.recording} at "
            f"{first.start:g} s; expected recordings of the index, and times within them"
        )
    if any(learned):
        labels = labels[:, learned]
        classes = [name for name, kept in zip(classes, learned, strict=True) if kept]
    data = (windows.rows.vectors, windows.of, groups, labels, classes)
    classifier, reports = train_classifier(*data, about, seed)
    return classifier, reports, found


def _labels(windows: Windows, annotations: Sequence[Annotation], unlabelled: str) -> WindowLabels:
    return label_windows(
        windows.files, windows.names, windows.starts, windows.ends, annotations, unlabelled
    )


def left_out(found: WindowLabels) -> dict[str, str]:
    """Classes that cannot be learned, and why: no window has them, or none is without."""
    reasons = map(missing_windows, found.labels.T)
    return {name: why for name, why in zip(found.classes, reasons, strict=True) if why}


def training_record(
    classifier: WindowClassifier, reports: Sequence[ClassReport], found: WindowLabels
) -> dict[str, Any]:
    """What is written beside a classifier, in values that JSON knows."""
    validated = [r.average_precision for r in reports if r.average_precision is not None]
    return {
        "mean_average_precision": float(np.mean(validated)) if validated else None,
        "classes": [dataclasses.asdict(report) for report in reports],
        "classes_left_out": left_out(found),
        "labels_without_recording": len(found.unmatched),
        "labels_without_window": len(found.outside),
        **classifier.about,
    }


def score_windows(
    classifier: WindowClassifier, source: str | os.PathLike, name: str = "the classifier"
) -> tuple[Windows, np.ndarray, np.ndarray]:
    """Scores of all windows of an index or a file.

    Args:
        classifier: what to score with.
        source: index or file.
        name: of the classifier, for errors.

    Returns:
        The windows, float32 [windows, classes], and the row of each score.

    Raises:
        InputError: if the rows are of another encoder or windows of another length.
    """
    rows = read_rows(source, classifier.about["rows"])
    require_same_rows(name, classifier.about["settings"], len(classifier.weights), rows)
    windows = windows_of(rows)
    return windows, *classifier.scores(rows.vectors, windows.of)


def require_encoder_of(
    classifier: WindowClassifier, encoder: "Encoder", name: str = "the classifier"
) -> None:
    """Raises InputError, naming both, unless a classifier was trained on an encoder's rows."""
    from sepssl.pipelines.channel_record import model_digest

    settings = classifier.about["settings"]
    digest = model_digest(encoder)
    if settings is not None and settings["encoder"] != digest:
        raise InputError(
            f"{name} was trained on rows of the encoder {settings['encoder']}, this one is "
            f"{digest}; expected that encoder"
        )


def write_scores(
    path: str | os.PathLike, windows: Windows, scores: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes a row for each window, `.csv` or `.parquet`: file, start, end, and every class."""
    columns: list[Any] = [windows.names, windows.starts, windows.ends, *scores.T]
    head = ["file", "start", "end", *classes]
    if pathlib.Path(path).suffix.lower() != ".parquet":
        rows = zip(*columns, strict=True)
        write_csv(path, head, ([*row[:3], *(f"{value:.6f}" for value in row[3:])] for row in rows))
        return
    import pyarrow
    import pyarrow.parquet

    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(
            pyarrow.Table.from_arrays(list(map(pyarrow.array, columns)), head), temporary
        )


def detections(
    windows: Windows,
    scores: np.ndarray,
    best: np.ndarray,
    classes: Sequence[str],
    thresholds: np.ndarray,
) -> list[Detection]:
    """Windows that reach the threshold, those that touch or overlap put together.

    Args:
        windows, scores, best: from `score_windows`.
        classes: names.
        thresholds: float [classes].

    Returns:
        In the order of recordings, then of time.
    """
    files, names = windows.files, windows.names
    starts, ends = windows.starts, windows.ends
    paths = windows.rows.paths
    # Parts of a file may be in any order, and are recordings of their own.
    numbers = {file: number for number, file in enumerate(dict.fromkeys(files))}
    order = np.lexsort((starts, np.array([numbers[file] for file in files])))
    found: list[tuple[int, Detection]] = []
    for column, label in enumerate(classes):
        last = None
        for place in np.flatnonzero(scores[order, column] >= thresholds[column]):
            window = order[place]
            start, end = float(starts[window]), float(ends[window])
            score = float(scores[window, column])
            channel = int(windows.rows.channels[best[window, column]])
            if last is not None and files[window] == files[last]:
                number, before = found[-1]
                if start <= before.end + 1e-6:
                    if score > before.score:
                        before = before._replace(score=score, channel=channel)
                    found[-1] = number, before._replace(end=max(before.end, end))
                    last = window
                    continue
            path = paths[windows.rows.recording[windows.first[window]]]
            found.append(
                (int(place), Detection(names[window], path, start, end, label, score, channel))
            )
            last = window
    return [detection for _, detection in sorted(found, key=lambda item: item[0])]


def require_detections(
    outputs: Sequence[str | os.PathLike], found: Sequence[Detection] = ()
) -> None:
    """Raises InputError unless detections can be written to all of the outputs.

    Args:
        outputs: files and folders.
        found: the detections, if they are known.
    """
    paths = [pathlib.Path(output) for output in outputs]
    recordings = len({d.recording for d in found})
    require_apart(outputs)
    for path in paths:
        _require(path, (".csv", ".txt", ""), DETECTIONS)
        track = path.suffix and not path.name.lower().endswith((".csv", ".selections.txt"))
        if track and recordings > 1:
            raise InputError(
                f"{path}: a label track belongs to one recording, detections of {recordings} were "
                "found; expected a name that ends in .csv or .selections.txt, or a folder"
            )


def require_suggestions(output: str | os.PathLike) -> None:
    """Raises InputError unless suggestions can be written to `output`, by its name."""
    path = pathlib.Path(output)
    track = path.suffix == ".txt" and not path.name.lower().endswith(".selections.txt")
    _require(output, () if track else (".csv", ".txt", ".html"), SUGGESTIONS)


def _require(output: str | os.PathLike, suffixes: Sequence[str], expected: str) -> None:
    path = pathlib.Path(output)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected {expected}")
    require_new(path)


def write_detections(output: str | os.PathLike, found: Sequence[Detection]) -> None:
    """Writes detections in the form that the output's name asks for.

    `.csv`, which `read_annotations` reads; `.selections.txt`, a selection table for Raven; `.txt`,
    a label track for Audacity, of one recording; without a suffix, a folder with a label track for
    every recording.

    Raises:
        InputError, OutputError: if the output cannot be written.
    """
    path = pathlib.Path(output)
    require_detections([path], found)
    if path.suffix.lower() == ".csv":
        rows = (
            [d.recording, d.start, d.end, d.label, f"{d.score:.6f}", d.channel, d.path]
            for d in found
        )
        write_csv(path, ["file", "start", "end", "label", "score", "channel", "path"], rows)
        return
    if path.name.lower().endswith(".selections.txt"):
        high_hz = highest_hz(d.path for d in found)
        columns = ["Annotation", "Score", "Separated Channel"]
        write_text(path, raven_table([_selection(d, high_hz) for d in found], columns))
        return
    tracks: dict[str, list[Selection]] = {}
    for d in found:
        tracks.setdefault(d.recording, []).append(_selection(d))
    if path.suffix:
        write_text(path, audacity_labels(next(iter(tracks.values()), [])))
        return
    with atomic_folder(path) as folder:
        for name, selections in zip(_below(list(tracks)), tracks.values(), strict=True):
            write_text(folder / f"{name}.txt", audacity_labels(selections))


def _below(names: Sequence[str]) -> Sequence[str]:
    """Names of recordings as places in a folder, from which `/a/1.wav` and `../1.wav` lead out."""
    pure = [pathlib.PurePath(name) for name in names]
    if not any(name.is_absolute() or ".." in name.parts for name in pure):
        return names
    absolute = [os.path.abspath(name) for name in names]
    shared = os.path.commonpath([os.path.dirname(name) for name in absolute])
    return [os.path.relpath(name, shared) for name in absolute]


def _selection(d: Detection, high_hz: float = 0.0) -> Selection:
    values = (d.label, f"{d.score:.4f}", d.channel)
    return Selection(d.path or d.recording, d.start, d.end, high_hz, printable(d.label), values)


def suggest_windows(
    windows: Windows,
    count: int,
    scores: np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
    annotations: Sequence[Annotation] = (),
) -> np.ndarray:
    """Which windows to label next.

    Of the windows that no annotation touches, those nearest to the threshold of a class (the
    margin, on the scale of logits) are looked at, five times as many as are wanted. The first
    suggestion is the nearest of all; each further one is, among them, the one farthest from those
    suggested (Sener and Savarese, Active learning for convolutional neural networks: a core-set
    approach, 2018). Without scores all windows are looked at, the first is the one nearest to the
    mean.

    Args:
        windows: to choose from.
        count: how many.
        scores: float [windows, classes], probabilities; None for none.
        thresholds: float [classes].
        annotations: what is labelled.

    Returns:
        int64, at most `count` numbers of windows, in the order of suggestion.

    Raises:
        InputError: if all windows are labelled.
    """
    free = np.ones(len(windows.first), bool)
    if annotations:
        free = ~_labels(windows, annotations, "negative").looked_at
    candidates = np.flatnonzero(free)
    if not len(candidates):
        raise InputError(f"{windows.rows.source}: all windows are labelled; expected others")
    vectors = windows.rows.vectors[windows.first[candidates]]
    if scores is None or thresholds is None:
        order = np.argsort(-(vectors @ vectors.mean(axis=0)), kind="stable")
    else:
        margins = np.abs(_logits(scores[candidates]) - _logits(thresholds)).min(axis=1)
        order = np.argsort(margins, kind="stable")[: _UNCERTAIN * count]
    chosen = [0]
    similarity = vectors[order] @ vectors[order[0]]
    while len(chosen) < min(count, len(order)):
        similarity[chosen[-1]] = np.inf
        chosen.append(int(np.argmin(similarity)))
        similarity = np.maximum(similarity, vectors[order] @ vectors[order[chosen[-1]]])
    return candidates[order[chosen]]


def write_suggestions(
    output: str | os.PathLike,
    windows: Windows,
    suggested: np.ndarray,
    classes: Sequence[str],
    scores: np.ndarray | None = None,
) -> list[str]:
    """Writes windows to label in the form that the output's name asks for.

    `.html`, a page that plays them and saves a CSV file that `read_annotations` reads; `.csv` and
    `.selections.txt` (Raven), to be filled in.

    Args:
        output: a new file.
        windows, suggested: which windows.
        classes: names to choose from.
        scores: float [windows, classes], shown if there are any.

    Returns:
        For each window whose sound could not be read, the reason.

    Raises:
        InputError, OutputError: if the output cannot be written.
    """
    path = pathlib.Path(output)
    require_suggestions(path)
    rows = windows.rows
    cards: list[Candidate] = []
    for window in suggested.tolist():
        first = windows.first[window]
        recording = rows.recording[first]
        guess = ""
        if scores is not None:
            best = np.argsort(-scores[window], kind="stable")[:3]
            guess = ", ".join(f"{classes[i]} {scores[window, i]:.2f}" for i in best)
        cards.append(
            Candidate(
                int(rows.numbers[first]),
                rows.names[recording],
                rows.paths[recording],
                float(rows.starts[first]),
                float(rows.ends[first]),
                guess,
            )
        )
    if path.suffix.lower() == ".csv":
        write_candidates_csv(path, cards)
        return []
    if path.suffix.lower() == ".txt":
        high_hz = highest_hz(c.path for c in cards)
        selections = [
            Selection(c.path or c.recording, c.start, c.end, high_hz, "", ("", c.row, c.guess))
            for c in cards
        ]
        write_text(path, raven_table(selections, ["Annotation", "Window", "Guess"]))
        return []
    sounds: list[Sound | None] = []
    skipped = []
    for c in cards:
        try:
            if not c.path:
                raise InputError(f"{c.recording}: where its file is is not known")
            rate = audio_info(c.path, allow_truncated=True).sample_rate
            waveform = read_audio(c.path, None, c.start, c.end - c.start, allow_truncated=True)
            sounds.append(Sound("recording", waveform, rate))
        except InputError as error:
            sounds.append(None)
            skipped.append(str(error))
    write_label_page(path, f"Label windows of {rows.source}", cards, sounds, classes)
    return skipped


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7))
