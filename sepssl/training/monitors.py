"""Metrics of a run: metrics.jsonl, TensorBoard, and the guard against divergence."""

import json
import math
import os
import pathlib

import tensorflow as tf

from sepssl.errors import InputError
from sepssl.files import atomic_file


class TrainingDiverged(InputError):
    """A loss or gradient that is not a finite number."""


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, a line per record, and to TensorBoard.

    Args:
        folder: of the run.
        first_step: steps already done; records that the run is going to make again, those of
            later steps or all if nothing is done, are dropped.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int = 0):
        self.path = pathlib.Path(folder) / "metrics.jsonl"
        kept = [r for r in read_metrics(self.path) if first_step and r["step"] <= first_step]
        with atomic_file(self.path, overwrite=True) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self._writer = tf.summary.create_file_writer(str(pathlib.Path(folder) / "tensorboard"))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
        with self._writer.as_default():
            for name, value in metrics.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Records of a `metrics.jsonl`, without a last line that an interruption cut; [] if missing."""
    records = []
    path = pathlib.Path(path)
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class FiniteGuard:
    """Collects the metrics of steps and looks at them later, when they are fetched anyway.

    Args:
        names: step -> names of the clips in its batch.
    """

    def __init__(self, names):
        self._names = names
        self._pending = []

    def add(self, step: int, metrics: dict) -> None:
        self._pending.append((step, metrics))

    def flush(self, checkpoint: str | None) -> dict[str, float]:
        """Means over the collected steps.

        Args:
            checkpoint: the last good one, for the message.

        Raises:
            TrainingDiverged: if the loss or the gradient of a step is not finite; names the step,
                the checkpoint and the clips of the batch.
        """
        records = [(s, {k: float(v) for k, v in m.items()}) for s, m in self._pending]
        self._pending = []
        for step, metrics in records:
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    clips = self._names(step)
                    shown = ", ".join(clips[:8]) + (", ..." if len(clips) > 8 else "")
                    raise TrainingDiverged(
                        f"step {step}: {name} is {metrics[name]}; last good checkpoint: "
                        f"{checkpoint or 'none'}; clips of the batch: {shown}"
                    )
        if not records:
            return {}
        keys = records[0][1]
        return {k: sum(m[k] for _, m in records) / len(records) for k in keys}
