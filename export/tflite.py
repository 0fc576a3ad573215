"""An encoder as a TF Lite file."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from sepssl.atomic import atomic_folder
from sepssl.errors import InputError
from sepssl.export import conversion
from sepssl.export.card import write_card
from sepssl.export.check import check_in_fresh_process
from sepssl.export.clips import expected_embeddings, fixed_clips
from sepssl.export.errors import ExportError
from sepssl.export.saved_model import require_encoder, write_saved_model
from sepssl.representation.encoder import Encoder

FILE_NAME = "encoder.tflite"


def convert_encoder(encoder: Encoder, directory: str | os.PathLike) -> dict:
    """Writes an encoder as `encoder.tflite`, with `card.json` and `README.md` beside it.

    The file is float32, uses TF Lite's builtin operators only, and has one signature,
    `serving_default`: `waveform`, float32 [batch, samples] in [-1, 1], any batch, any number of
    samples from 1 up -> `embedding` [batch, embedding_size]. Samples that are NaN, infinite or
    beyond 1e10 count as zeros, as in `save_encoder`.

    What was written is compared with the encoder on fixed clips, in a fresh process.

    Args:
        encoder: the encoder to convert; not changed.
        directory: a folder that does not exist or is empty. It appears whole or not at all.

    Returns:
        The content of `card.json`.

    Raises:
        InputError: if `encoder` is no encoder, computes in less than float32 or gives embeddings
            that are not finite, or `directory` holds something or cannot be written.
        ExportError: if an operation of the encoder has no TF Lite operator, or the file computes
            something else: a cosine below 0.9999, or more than 1e-3 of the largest value of a
            clip's embedding away.
    """
    require_encoder(encoder)
    _require_float32(encoder)
    with atomic_folder(directory) as folder:
        clips = fixed_clips(encoder)
        expected = expected_embeddings(encoder, clips)
        with tempfile.TemporaryDirectory() as temporary:
            write_saved_model(encoder, temporary)
            _convert_in_subprocess(temporary, folder / FILE_NAME)
        checks = check_in_fresh_process(None, folder / FILE_NAME, clips, expected)
        return write_card(folder, encoder, "tflite", checks["tflite"])


def _require_float32(encoder):
    # Keras has no public walk over layers within layers.
    for layer in encoder._flatten_layers():
        if layer.compute_dtype not in (None, "float32"):
            raise InputError(
                f"encoder: its layer '{layer.name}' computes in {layer.compute_dtype}, for which "
                "TF Lite has no operators; expected an encoder under the dtype policy float32"
            )


def _convert_in_subprocess(saved_model: str, output: pathlib.Path) -> None:
    # The converter aborts the whole process on some inputs (an assertion in LLVM). The script is
    # run by its path, and without that path's folder in front of sys.path (-P): our tflite.py
    # must not stand in for somebody's `import tflite`.
    command = [sys.executable, "-P", conversion.__file__, saved_model, os.fspath(output)]
    # Not the caller's GPU, whose memory the caller may have taken whole.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode != 0:
        raise ExportError(
            f"encoder: conversion to TF Lite failed with exit status {process.returncode}: "
            + _summary(process.stderr)
        )


def _summary(stderr):
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # The converter names the operators on lines `loc(...): error: ...`, far above the traceback;
    # an abort leaves only its last words.
    told = [line.rsplit("error: ", 1)[1] for line in lines if re.search(r"[)0]: error: ", line)]
    return " | ".join(dict.fromkeys(told or lines[-5:]))[:2000]
