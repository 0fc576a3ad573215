"""Results as tables of text, for terminals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sepssl.progress import counted

if TYPE_CHECKING:
    from sepssl.evaluation.window_classifier import ClassReport

FEW_CLIPS = 50  # fewer test clips make scores and intervals a matter of chance; our choice

_KINDS = {"qbe": "QbE mAP", "linear": "linear mAP", "mlp": "mlp mAP"}


def encoder_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per representation: mean average precisions with their intervals, and d'.

    Args:
        results: by the name of a representation, as `evaluate_on` returns them, all on the same
            clips.

    Returns:
        The table, what it shows, and a warning where the test clips are few.
    """
    first = next(iter(results.values()))
    rows = [["", *_KINDS.values(), "linear d'", "mlp d'"]]
    for name, row in results.items():
        scores = [_with_interval(row, f"{kind}_map") for kind in _KINDS]
        rows.append([name, *scores, *(_d_prime(row[f"{k}_d_prime"]) for k in ("linear", "mlp"))])
    rows.append(["chance", f"{first['qbe_chance']:.3f}", "", "", "", ""])
    lines = _aligned(rows)
    lines.append("QbE: query by example. In parentheses: 95 % bootstrap interval over test clips.")
    if "test_clips" in first:
        counts = [f"{first[f'{split}_clips']} {split}" for split in ("train", "validation", "test")]
        lines.insert(0, f"{first['classes']} classes; clips: {', '.join(counts)}")
        lines += few_clips(first["test_clips"], "test clip")
    return "\n".join(lines)


def folds_table(results: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """A row per representation: its accuracy over folds, and the settings chosen.

    Args:
        results: by the name of a representation, as `evaluate_on_folds` returns them.
        title: of the data.

    Returns:
        The table, what it shows, and a warning where the clips are few.
    """
    first = next(iter(results.values()))
    folds = first["folds"]
    rows = [["", "accuracy, %", "over folds", "C", "pooling"]]
    for name, row in results.items():
        chosen = [
            ", ".join(dict.fromkeys(f"{fold[key]}" for fold in row["folds"].values()))
            for key in ("C", "pooling")
        ]
        rows.append(
            [name, f"{100 * row['accuracy']:.1f}", f"± {100 * row['deviation']:.1f}", *chosen]
        )
    lines = [
        f"{title}: {first['classes']} classes; {first['clips']} clips in {len(folds)} folds",
        *_aligned(rows),
        "Accuracy: mean over the folds tested on, each by a classifier of the others, with the",
        "standard deviation. C and pooling were chosen without the fold tested on.",
    ]
    return "\n".join([*lines, *few_clips(first["clips"], "clip")])


def classes_table(reports: Sequence["ClassReport"]) -> str:
    """A row per class: what was labelled, and how well it is found on held-out recordings."""
    head = ["class", "windows", "recordings", "AP", "95 % interval", "chance", "threshold"]
    rows = [[*head, "precision", "recall"]]
    notes = []
    for report in reports:
        cells = [report.label, str(report.windows), str(report.recordings)]
        if report.average_precision is None:
            notes.append(f"{report.label}: {report.note}")
            cells += ["-", "-", f"{report.chance:.3f}", f"{report.threshold:.3f}", "-", "-"]
        else:
            interval = f"{report.low:.3f} to {report.high:.3f}"
            cells += [f"{report.average_precision:.3f}", interval, f"{report.chance:.3f}"]
            cells += [f"{report.threshold:.3f}", f"{report.precision:.3f}", f"{report.recall:.3f}"]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    lines.append(
        "AP: average precision on windows of recordings held out; its interval: from drawing "
        "recordings anew. Precision and recall: at the threshold."
    )
    return "\n".join(lines + notes)


def few_clips(count: int, what: str) -> list[str]:
    """A warning, if there are so few clips that scores mean little; else nothing.

    Args:
        count: how many.
        what: a clip, in the singular.
    """
    if count >= FEW_CLIPS:
        return []
    return [
        f"warning: only {counted(count, what)}; below {FEW_CLIPS}, scores and intervals mean "
        "little, even where an interval is narrow"
    ]


def _with_interval(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:.3f} ({row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f})"


def _d_prime(value: float | None) -> str:
    return "inf" if value is None else f"{value:.2f}"  # None: of a perfect ranking


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
