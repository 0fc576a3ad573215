"""Learns classes of sounds from a few labels, finds them, and names what to label next.

sepssl-classify train --index=DIR --labels=FILE_OR_FOLDER --output=CLASSIFIER.npz
sepssl-classify apply --index=DIR --classifier=CLASSIFIER.npz --scores=FILE --detections=FILE
sepssl-classify suggest --index=DIR [--classifier=CLASSIFIER.npz] --output=FILE.html

DIR is an index, or a .npz, .csv or .parquet file, that sepssl-embed has written. Labels are Raven
selection tables, Audacity label tracks, or CSV files with the columns file, start, end, label;
annotations that perch-hoplite's tools have added to the index count as well. A report on held-out
recordings is written beside the classifier, CLASSIFIER.json.

Example:
  sepssl-classify train --index=index --labels=labels.csv --output=classifier.npz

Results: the classifier, and CLASSIFIER.json beside it; files of scores and detections; a page for
labels.

Next:
  sepssl-classify apply --index=index --classifier=classifier.npz --detections=found.csv
  sepssl-classify suggest --index=index --classifier=classifier.npz --output=label.html
  sepssl-export --encoder=small --classifier=classifier.npz --output=saved_model
"""

import json
import pathlib
import sys

from absl import flags

from sepssl.cli.checks import require_exists, require_new_file
from sepssl.cli.main import run as run_command
from sepssl.errors import InputError

TENSORFLOW = False
TASKS = ("train", "apply", "suggest")
_USES = {  # flag -> the tasks that it is about
    "labels": ("train", "suggest"),
    "label_column": ("train", "suggest"),
    "output": ("train", "suggest"),
    "rows": ("train",),
    "unlabelled": ("train",),
    "seed": ("train",),
    "classifier": ("apply", "suggest"),
    "scores": ("apply",),
    "detections": ("apply",),
    "threshold": ("apply",),
    "count": ("suggest",),
}


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_enum("task", None, TASKS, "The first argument.", required=True, flag_values=values)
    flags.DEFINE_multi_string(
        "index",
        None,
        "Index or file of rows; for train, it may be repeated.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "labels",
        [],
        "train, suggest: file or folder of labels; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "label_column",
        "",
        "train, suggest: column of labels in Raven's tables; by default Annotation, Label, Species "
        "or the like.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "rows",
        "mixture",
        ["mixture", "both"],
        "train: which rows of a window count: the recording's, or the best of it and its channels.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "unlabelled",
        "negative",
        ["negative", "ignore"],
        "train: what windows without a label are in recordings with labels: without any of the "
        "classes, or not known.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "train: of folds and intervals.", 0, flag_values=values)
    flags.DEFINE_string("classifier", "", "apply, suggest: the classifier.", flag_values=values)
    flags.DEFINE_string(
        "scores",
        "",
        "apply: .csv or .parquet file for a row per window.",
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "detections",
        [],
        "apply: .csv, .selections.txt (Raven) or .txt (Audacity) file, or folder for a label track "
        "per recording; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "threshold",
        None,
        "apply: probability from which on a class is detected; by default, for each class, that "
        "with the largest F1 on held-out recordings.",
        0.0,
        1.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "count", 20, "suggest: how many windows.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string(
        "output",
        "",
        "train: .npz file of the classifier; suggest: .html, .selections.txt or .csv file.",
        allow_overwrite=False,
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    task = values.task
    for name, tasks in _USES.items():
        if values[name].present and task not in tasks:
            hint = "; expected --detections or --scores" if name == "output" else ""
            raise InputError(f"--{name}: is for {' and '.join(tasks)}, not for {task}{hint}")
    for path in [*values.index, *values.labels]:
        require_exists(path, "an index or a file of rows" if path in values.index else "labels")
    if task != "train" and len(values.index) > 1:
        raise InputError(f"--index: {task} takes one; expected it once")
    if task == "train":
        _require(values, "output")
        require_new_file(values.output, (".npz",))
        require_new_file(pathlib.Path(values.output).with_suffix(".json"), (".json",))
    elif task == "apply":
        from sepssl.files import require_apart
        from sepssl.pipelines.classify import require_detections

        _require(values, "classifier")
        if not (values.scores or values.detections):
            raise InputError("nothing to write; expected --scores, --detections, or both")
        if values.threshold is not None and not 0 <= values.threshold <= 1:
            raise InputError(f"--threshold={values.threshold}: expected 0 to 1")
        if values.scores:
            require_new_file(values.scores, (".csv", ".parquet"))
        require_detections(values.detections)
        require_apart([*([values.scores] if values.scores else []), *values.detections])
    else:
        from sepssl.pipelines.classify import require_suggestions

        _require(values, "output")
        require_suggestions(values.output)


def _require(values: flags.FlagValues, name: str) -> None:
    if not values[name].value:
        raise InputError(f"--{name} is required")


def main(values: flags.FlagValues) -> None:
    {"train": _train, "apply": _apply, "suggest": _suggest}[values.task](values)


def _train(values: flags.FlagValues) -> None:
    from sepssl.files import together
    from sepssl.pipelines.classify import left_out, train_on_labels, training_record
    from sepssl.progress import counted
    from sepssl.reports.tables import classes_table

    classifier, reports, found = train_on_labels(
        values.index, _annotations(values), values.rows, values.unlabelled, values.seed
    )
    record = training_record(classifier, reports, found)
    output = pathlib.Path(values.output)
    with together([output.with_suffix(".json"), output]) as (beside, place):
        beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        classifier.save(place)
    print(classes_table(reports))
    for label, reason in left_out(found).items():
        print(f"left out: {label}: {reason}")
    for labels, what in ((found.unmatched, "recording"), (found.outside, "window with sound")):
        if labels:
            first = labels[0]
            print(
                f"passed over: {counted(len(labels), 'label')} for which the index has no {what}; "
                f"the first: {first.where}: {first.recording} at {first.start:g} s"
            )
    print(f"written: {values.output} and {pathlib.Path(values.output).with_suffix('.json').name}")


def _annotations(values: flags.FlagValues):
    from sepssl.data.annotations import read_annotations

    return [a for path in values.labels for a in read_annotations(path, values.label_column)]


def _apply(values: flags.FlagValues) -> None:
    import numpy as np

    from sepssl.evaluation.window_classifier import load_classifier
    from sepssl.files import together
    from sepssl.pipelines.classify import (
        detections,
        require_detections,
        score_windows,
        write_detections,
        write_scores,
    )

    classifier = load_classifier(values.classifier)
    windows, scores, best = score_windows(classifier, values.index[0], values.classifier)
    thresholds = classifier.thresholds
    if values.threshold is not None:
        thresholds = np.full(len(classifier.classes), values.threshold)
    found = detections(windows, scores, best, classifier.classes, thresholds)
    require_detections(values.detections, found)
    of_scores = [values.scores] if values.scores else []
    with together([*of_scores, *values.detections]) as places:
        if of_scores:
            write_scores(places[0], windows, scores, classifier.classes)
        for place in places[len(of_scores) :]:
            write_detections(place, found)
    for output in of_scores:
        print(f"{output}: scores of {len(scores)} windows")
    for output in values.detections:
        print(f"{output}: {len(found)} detections")


def _suggest(values: flags.FlagValues) -> None:
    from sepssl.evaluation.window_classifier import load_classifier
    from sepssl.index.rows import read_rows
    from sepssl.pipelines.classify import (
        index_annotations,
        score_windows,
        suggest_windows,
        windows_of,
        write_suggestions,
    )

    annotations = [*_annotations(values), *index_annotations(values.index[0])]
    scores = thresholds = None
    if values.classifier:
        classifier = load_classifier(values.classifier)
        windows, scores, _ = score_windows(classifier, values.index[0], values.classifier)
        classes, thresholds = classifier.classes, classifier.thresholds
    else:
        windows = windows_of(read_rows(values.index[0], "mixture"))
        classes = tuple(sorted({a.label for a in annotations if a.label}))
    suggested = suggest_windows(windows, values.count, scores, thresholds, annotations)
    skipped = write_suggestions(values.output, windows, suggested, classes, scores)
    print(f"{values.output}: {len(suggested)} windows to label")
    for reason in dict.fromkeys(skipped):
        print(f"not heard: {reason}")


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
