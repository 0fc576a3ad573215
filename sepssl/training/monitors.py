"""Metrics of a run: metrics.jsonl, TensorBoard, and the guard against divergence."""

import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from sepssl.audio.spectrogram import spectrogram_db, spectrogram_picture
from sepssl.errors import InputError
from sepssl.files import atomic_file, writing_to


class TrainingDiverged(InputError):
    """A loss or gradient that is not a finite number."""


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, a line per record, and to TensorBoard.

    Args:
        folder: of the run.
        first_step: steps already done. Records that the run will write again are dropped: those of
            later steps, or all if none is done.

    Attributes:
        validated: the steps whose kept records hold metrics of validation.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int = 0):
        self.path = pathlib.Path(folder) / "metrics.jsonl"
        kept = [r for r in read_metrics(self.path) if r.get("step", first_step) <= first_step]
        kept = kept if first_step else []
        self.validated = {
            r["step"] for r in kept if "step" in r and any(k.startswith("validation/") for k in r)
        }
        with atomic_file(self.path, overwrite=True) as temporary:
            temporary.write_text("".join(plain_json(r) + "\n" for r in kept))
        self._writer = tf.summary.create_file_writer(str(pathlib.Path(folder) / "tensorboard"))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        with writing_to(self.path), open(self.path, "a") as file:
            file.write(plain_json({"step": step} | metrics) + "\n")
        with self._writer.as_default():
            for name, value in metrics.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()

    def write_sounds(self, step: int, tracks: dict[str, np.ndarray], sample_rate: int) -> None:
        """Writes sounds and their spectrograms, on one scale of levels, to TensorBoard.

        Args:
            step: number of updates done.
            tracks: name -> float32 [samples].
            sample_rate: in Hz.
        """
        levels = {name: spectrogram_db(track, sample_rate) for name, track in tracks.items()}
        loudest = max(float(level.max()) for level in levels.values())
        with self._writer.as_default():
            for name, track in tracks.items():
                tf.summary.audio(name, track[None, :, None], sample_rate, step)
                picture = spectrogram_picture(levels[name] - loudest)
                tf.summary.image(f"{name}, spectrogram", picture[None], step)
        self._writer.flush()

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Writes a picture to TensorBoard."""
        with self._writer.as_default():
            tf.summary.image(name, tf.io.decode_png(png)[None], step)
        self._writer.flush()


def plain_json(record: dict[str, Any], indent: int | None = None) -> str:
    """A flat record as JSON, with null for non-finite numbers, which JSON lacks."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return json.dumps(plain, indent=indent, allow_nan=False)


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Records of a `metrics.jsonl`, up to a line that an interruption left incomplete.

    Returns:
        A dict per line, with NaN for null; [] if the file does not exist.
    """
    records = []
    path = pathlib.Path(path)
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict):
            break
        records.append({k: math.nan if v is None else v for k, v in record.items()})
    return records


class FiniteGuard:
    """Collects the metrics of steps and checks them later, when they are fetched anyway.

    A non-finite gradient stops a run, unless the step was "skipped": under float16, the loss scale
    is found that way, as long as it can still be lowered.

    Args:
        names: step -> names of the clips in its batch, [] if unknown.
    """

    def __init__(self, names: Callable[[int], list[str]]):
        self._names = names
        self._pending: list[tuple[int, dict]] = []

    def add(self, step: int, metrics: dict) -> None:
        """Keeps a step's scalars, without waiting for them."""
        self._pending.append((step, metrics))

    def flush(self, checkpoint: str | None) -> dict[str, float]:
        """Means over the collected steps; for "gradient_norm", over those not skipped.

        Args:
            checkpoint: the last good one, for the message.

        Raises:
            TrainingDiverged: if the loss or the gradient of a step is not finite; names the step,
                the checkpoint and the clips of the batch.
        """
        records = [(s, {k: float(v) for k, v in m.items()}) for s, m in self._pending]
        self._pending = []
        for step, metrics in records:
            lowers_scale = metrics.get("skipped") == 1 and metrics["loss_scale"] > 1
            for name in ("loss",) if lowers_scale else ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    clips = self._names(step)
                    shown = ", ".join(clips[:8]) + (", ..." if len(clips) > 8 else "")
                    raise TrainingDiverged(
                        f"step {step}: {name} is {metrics[name]}; last good checkpoint: "
                        f"{checkpoint or 'none'}; clips of the batch: {shown or 'unknown'}"
                    )
        means = {}
        for key in records[0][1] if records else ():
            values = [m[key] for _, m in records]
            if key == "gradient_norm" and "skipped" in records[0][1]:
                values = [value for value in values if math.isfinite(value)] or [math.nan]
            means[key] = sum(values) / len(values)
        return means
