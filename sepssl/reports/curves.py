"""A picture of how metrics went over the steps of one or several runs."""

import os
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from sepssl.errors import InputError
from sepssl.files import atomic_file
from sepssl.training.monitors import read_metrics


def draw_curves(
    runs: Sequence[str | os.PathLike], metrics: Sequence[str], output: str | os.PathLike
) -> None:
    """Draws a panel per metric with a curve per run, over steps on a logarithmic axis.

    Args:
        runs: folders of runs.
        metrics: names in their `metrics.jsonl`, as "validation/MoMi".
        output: a picture, ending in .png, .svg or .pdf.

    Raises:
        InputError: if a run or a metric is not there, or `output` exists.
    """
    if not runs or not metrics:
        raise InputError("no run or no metric to draw; expected at least one of each")
    records = {}
    for run in map(pathlib.Path, runs):
        records[run] = read_metrics(run / "metrics.jsonl")
        if not records[run]:
            raise InputError(f"{run}: has no metrics.jsonl; expected the folder of a run")
    known = {name for entries in records.values() for entry in entries for name in entry}
    figure = Figure(figsize=(4.2 * len(metrics), 3.2), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        if metric not in known:
            raise InputError(f"{metric}: no run has it; they have {', '.join(sorted(known))}")
        for run, entries in records.items():
            points = [(entry["step"], entry[metric]) for entry in entries if metric in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=str(run))
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel("step")
        axes.set_title(metric.removeprefix("validation/"))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_file(output) as temporary:
        figure.savefig(temporary, dpi=120)
