"""Several methods compared over seeds: a table of Markdown and a figure."""

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.figure import Figure

from sepssl.evaluation.paired import paired_difference
from sepssl.files import atomic_file

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]  # method -> metric -> seed -> score


def write_table(
    scores: Scores,
    metrics: Mapping[str, str],
    comparisons: Iterable[tuple[str, str]],
    folder: pathlib.Path,
) -> None:
    """Writes `table.md` and `figure.svg`, over those that are there.

    Args:
        scores: method -> metric -> seed -> score; methods in the order of the table, each with all
            metrics on the same seeds.
        metrics: metric -> what the table calls it.
        comparisons: pairs of methods whose difference is shown with its 95 % interval; those that
            have no seed in common are left out.
        folder: where the files go; made if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "table.md", overwrite=True) as temporary:
        temporary.write_text(_table(scores, metrics, comparisons), encoding="utf-8")
    with atomic_file(folder / "figure.svg", overwrite=True) as temporary:
        _draw(scores, metrics).savefig(temporary, format="svg")


def _table(scores: Scores, metrics: Mapping[str, str], comparisons) -> str:
    rule = f"|---|---|{'---|' * len(metrics)}"
    lines = [f"| | seeds | {' | '.join(metrics.values())} |", rule]
    for name, of_metric in scores.items():
        columns = [list(of_metric[metric].values()) for metric in metrics]
        shown = [
            f"{np.mean(c):.3f}" + (f" ± {np.std(c, ddof=1):.3f}" if len(c) > 1 else "")
            for c in columns
        ]
        lines.append(f"| {name} | {len(columns[0])} | {' | '.join(shown)} |")
    lines += ["", f"| difference (95 %) | seeds | {' | '.join(metrics.values())} |", rule]
    for first, second in comparisons:
        if first not in scores or second not in scores:
            continue
        pairs = [(scores[first][metric], scores[second][metric]) for metric in metrics]
        if not pairs[0][0].keys() & pairs[0][1].keys():
            continue
        differences = [paired_difference(a, b) for a, b in pairs]
        shown = [
            f"{d.mean:+.3f}" + (f" ({d.low:+.3f} to {d.high:+.3f})" if d.seeds > 1 else "")
            for d in differences
        ]
        lines.append(f"| {first} − {second} | {differences[0].seeds} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _draw(scores: Scores, metrics: Mapping[str, str]) -> Figure:
    """A panel per metric: methods from top to bottom, a dot per seed, a line at the mean."""
    figure = Figure(figsize=(4 + 2.6 * len(metrics), 1 + 0.24 * len(scores)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
        for place, of_metric in enumerate(scores.values()):
            by_seed = list(of_metric[metric].values())
            axes.plot(by_seed, [place] * len(by_seed), "o", markersize=3, alpha=0.5, color="C0")
            axes.plot(np.mean(by_seed), place, "|", markersize=12, color="black")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(scores)), list(scores), fontsize="small")
    panels[0].invert_yaxis()
    return figure
