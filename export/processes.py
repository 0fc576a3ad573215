"""Child processes: conversions, which can abort, and checks, which must not know the model."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sepssl.export import check
from sepssl.export.clips import encoder_clips, expected_outputs
from sepssl.export.errors import ExportError
from sepssl.representation.encoder import Encoder

TIMEOUT_SECONDS = 3600.0  # of a child; the largest models take minutes


class Check(NamedTuple):
    """An export, and what it is expected to compute.

    Attributes:
        name: what an error calls it.
        clips: clip -> input array.
        expected: clip -> output -> array.
        saved_model: folder of a SavedModel, or None.
        tflite: a TF Lite file, or None.
        input_name: what the export calls its input.
        precision: a key of `TFLITE_LIMITS`, of an ONNX file of `ONNX_LIMITS`.
        onnx: an ONNX file, or None.
    """

    name: str
    clips: dict[str, np.ndarray]
    expected: dict[str, dict[str, np.ndarray]]
    saved_model: str | os.PathLike | None = None
    tflite: str | os.PathLike | None = None
    input_name: str = "waveform"
    precision: str = "float32"
    onnx: str | os.PathLike | None = None


def check_exports(
    saved_model_dir: str | os.PathLike | None,
    tflite_path: str | os.PathLike | None,
    encoder: Encoder,
    onnx_path: str | os.PathLike | None = None,
) -> dict:
    """Compares exports with the encoder they came from, in a fresh process.

    Args:
        saved_model_dir: folder written by `save_encoder`, or None.
        tflite_path: float32 file written by `convert_encoder`, or None.
        encoder: the `Encoder`.
        onnx_path: file written by `save_onnx_encoder`, or None.

    Returns:
        `saved_model`, `tflite` and `onnx`, each with `max_error` (absolute), `relative_error` (to
        the largest value of the clip's embedding) and `cosine` (the lowest), the latter two also
        with `milliseconds` (of one patch, on one thread), `tflite` with the input's `dtype`;
        `tensorflow`, the version; `tflite_runtime`. What was not asked for is None.

    Raises:
        ExportError: if an export cannot be loaded, or is off by more than 1e-5 (SavedModel) or
            1e-3 (others), or by a cosine below 0.9999.
    """
    clips = encoder_clips(encoder)
    expected = expected_outputs(encoder, clips, "embedding")
    (result,) = check_in_fresh_process(
        [
            Check(
                "check of the exports",
                clips,
                expected,
                saved_model_dir,
                tflite_path,
                onnx=onnx_path,
            )
        ]
    )
    return result


def check_in_fresh_process(checks: Sequence[Check], timeout: float = TIMEOUT_SECONDS) -> list[dict]:
    """Compares exports with arrays, all in one fresh process.

    Args:
        checks: what to compare.
        timeout: seconds after which the process is ended.

    Returns:
        For every check, what `check_exports` returns.

    Raises:
        ExportError: at the first export that cannot be loaded or computes something else.
    """
    with tempfile.TemporaryDirectory() as temporary:
        jobs = []
        for i, item in enumerate(checks):
            expected = pathlib.Path(temporary) / f"{i}.npz"
            arrays = {f"{clip}/{item.input_name}": x for clip, x in item.clips.items()}
            for clip, outputs in item.expected.items():
                arrays |= {f"{clip}/{output}": x for output, x in outputs.items()}
            np.savez(expected, **arrays)  # type: ignore[arg-type]  # taken for allow_pickle
            jobs.append(
                {
                    "saved_model": item.saved_model and os.fspath(item.saved_model),
                    "tflite": item.tflite and os.fspath(item.tflite),
                    "onnx": item.onnx and os.fspath(item.onnx),
                    "expected": str(expected),
                    "precision": item.precision,
                }
            )
        (pathlib.Path(temporary) / "jobs.json").write_text(json.dumps(jobs))
        process = run_script(check.__file__, f"--jobs={temporary}/jobs.json", timeout=timeout)
    results = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    if len(results) < len(checks) and not (results and "error" in results[-1]):
        tail = " | ".join(process.stderr.strip().splitlines()[-5:])[:2000]
        results.append({"error": f"exit status {process.returncode}: {tail}"})
    for item, result in zip(checks, results, strict=False):
        if "error" in result:
            raise ExportError(f"{item.name}: {result['error']}")
    return results


def run_script(
    script: str, *arguments: str, timeout: float = TIMEOUT_SECONDS
) -> subprocess.CompletedProcess:
    """Runs a script of this folder on the CPU; its output as text.

    Raises:
        ExportError: if it takes longer than `timeout` seconds.
    """
    # By its path, without that path's folder in front of sys.path (-P): our tflite.py must not
    # stand in for somebody's `import tflite`.
    command = [sys.executable, "-P", script, *arguments]
    # Not the caller's GPU, whose memory the caller may have taken whole, and which may round to
    # 10 bits (TF32).
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"{pathlib.Path(script).name}: not finished after {timeout:g} s, the limit for a "
            "conversion or check; expected less"
        ) from error
