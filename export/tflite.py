"""Models as TF Lite files: several precisions, builtin operators only."""

import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sepssl.errors import InputError
from sepssl.export import conversion
from sepssl.export.card import describe_encoder, describe_separator, write_card
from sepssl.export.clips import (
    INPUTS,
    as_input,
    encoder_clips,
    expected_outputs,
    input_of,
    one_patch,
    require_some,
    separator_clips,
)
from sepssl.export.errors import ExportError
from sepssl.export.graphs import (
    Graph,
    backbone_graph,
    encoder_graph,
    patch_graph,
    require_encoder,
    require_float32,
    separator_graph,
    write_saved_model,
)
from sepssl.export.origin import Origin
from sepssl.export.processes import Check, check_in_fresh_process, run_script
from sepssl.files import atomic_folder, require_new_folder
from sepssl.representation.encoder import Encoder
from sepssl.separation.separator import Separator

PRECISIONS = ("float32", "float16", "dynamic", "int8")
CALIBRATION_PATCHES = 128
_GRAPHS = {"waveform": encoder_graph, "patch": patch_graph, "log_mel": backbone_graph}


def convert_encoder(
    encoder: Encoder,
    directory: str | os.PathLike,
    origin: Origin | None = None,
    precisions: Sequence[str] = ("float32",),
    inputs: Sequence[str] = ("waveform",),
    calibration: Iterable[np.ndarray] = (),
    accept_errors: bool = False,
) -> dict:
    """Writes an encoder as TF Lite, with `card.json`, `README.md` and `manifest.sha256`.

    A file for every input and precision: `encoder.tflite` for waveforms in float32, and of others
    like `encoder_float16.tflite`, `encoder_patch_int8.tflite`. Builtin operators only, and one
    signature, `serving_default`, with the output `embedding` [batch, embedding_size].

    Inputs:

    - `waveform`: `waveform`, float32 [batch, samples] in [-1, 1], any batch, any number of samples
      from 1 up. Samples that are NaN, infinite or beyond 1e10 count as zeros.
    - `patch`: the same of one patch, [1, patch_samples], for runtimes without dynamic shapes.
    - `log_mel`: `log_mel`, [1, frames, bands], the backbone alone, for microcontrollers, which have
      no FFT operator and compute the front end otherwise.

    Precisions, of the backbone; the front end stays in float32, which it needs:

    - `float32`; `float16`: weights in half precision.
    - `dynamic`: weights in 8 bits, inputs of convolutions made 8 bits at run time.
    - `int8`: weights and activations in 8 bits, calibrated. With input `log_mel`, input and output
      are int8 too, where the file's operators allow.

    Every file is compared with the encoder on fixed clips, in a fresh process.

    Args:
        encoder: the encoder to convert; not changed.
        directory: a folder that does not exist or is empty. It appears whole or not at all.
        origin: where the weights come from, for the card.
        precisions: some of `PRECISIONS`.
        inputs: some of `INPUTS`.
        calibration: waveforms [samples] at the encoder's sample rate, like those that the encoder
            will meet; needed for int8, and not read before all else is found right. Up to 128
            patches of them are used, evenly spread, and one of silence.
        accept_errors: whether a file is also written if its errors are larger than allowed.

    Returns:
        The content of `card.json`.

    Raises:
        InputError: if `encoder` is no encoder, computes in less than float32 or gives embeddings
            that are not finite, `directory` holds something or cannot be written, or int8 is
            wanted without calibration.
        ExportError: if an operation of the encoder has no TF Lite operator, or a file computes
            something else: a cosine below 0.9999 (float32, float16), 0.999 (dynamic) or 0.98
            (int8), or in float32 more than 1e-3 of the largest value of a clip's embedding away.
    """
    require_encoder(encoder)
    _require_precisions(precisions, PRECISIONS)
    require_some("input", inputs, INPUTS)
    require_new_folder(directory)
    graphs = {name: _GRAPHS[name](encoder) for name in inputs}
    for graph in graphs.values():
        require_float32(graph, "TF Lite")
    waveforms = _usable_calibration(calibration) if "int8" in precisions else None
    with atomic_folder(directory) as folder:
        clips = encoder_clips(encoder)
        expected = expected_outputs(encoder, clips, "embedding")
        patches = None if waveforms is None else _calibration_patches(encoder, waveforms)
        variants = []
        for name, graph in graphs.items():
            files = _files(["encoder", *_unless(name, "waveform")], precisions)
            # The backbone's last operation may bear the name of the output.
            parts = ".*" if name == "log_mel" else f".*{re.escape(encoder.backbone.name)}.*"
            variant = _Variant(graph, files, parts, *as_input(encoder, name, clips, expected))
            if patches is not None:
                variant = variant._replace(calibration=input_of(encoder, name, patches))
            variants.append(variant)
        checks = _convert(variants, folder, accept_errors)
        return write_card(folder, "tflite", describe_encoder(encoder), checks, origin)


def convert_separator(
    separator: Separator,
    directory: str | os.PathLike,
    origin: Origin | None = None,
    precisions: Sequence[str] = ("float32",),
    accept_errors: bool = False,
    seconds: float | None = None,
) -> dict:
    """Writes a separator as TF Lite, as `convert_encoder` does an encoder.

    `separator.tflite` and `separator_float16.tflite`; signature `serving_default`: `waveform`
    [batch, samples] -> `sources` [batch, sources, samples], any batch, any number of samples from
    1 up. Half precision is that of the mask network's weights.

    Args, Returns, Raises: as of `convert_encoder`; `precisions` are float32 and float16. With
    `seconds`, more than 0, the files take waveforms [1, samples] only, of that length rounded up to
    whole frames of the separator's basis, for runtimes without dynamic shapes.
    """
    samples = None if seconds is None else _whole_frames(seconds, separator)
    graph = separator_graph(separator, builtin_operators=True, samples=samples)
    (copy,) = graph.models
    parts = f".*({re.escape(copy.tdcn.name)}|{re.escape(copy.mask.name)}).*"
    with atomic_folder(directory) as folder:
        clips = separator_clips(separator)
        if samples is not None:
            clips = {name: _of_length(clip[:1], samples) for name, clip in clips.items()}
        expected = expected_outputs(separator, clips, "sources")
        checks = convert_variant(
            "separator", graph, parts, clips, expected, folder, precisions, accept_errors
        )
        return write_card(folder, "tflite", describe_separator(separator), checks, origin)


def convert_variant(
    name: str,
    graph: Graph,
    parts: str,
    clips: dict[str, np.ndarray],
    expected: dict[str, dict[str, np.ndarray]],
    folder: pathlib.Path,
    precisions: Sequence[str],
    accept_errors: bool,
) -> dict[str, dict]:
    """Writes `NAME.tflite` and `NAME_float16.tflite`, or one of them.

    Args:
        name: of the files.
        graph: what to convert.
        parts: regular expression for the names of what is in half precision.
        clips, expected: inputs and outputs to compare with.
        folder: to write to.
        precisions: float32, float16, or both.
        accept_errors: as of `convert_encoder`.

    Returns:
        Name of a file -> what the card says of it.

    Raises:
        InputError, ExportError: as `convert_encoder`.
    """
    _require_precisions(precisions, PRECISIONS[:2])
    require_float32(graph, "TF Lite")
    variant = _Variant(graph, _files([name], precisions), parts, clips, expected)
    return _convert([variant], folder, accept_errors)


class _Variant(NamedTuple):
    """A model that takes one kind of input, in one or several precisions.

    Attributes:
        graph: what to convert.
        files: file name -> precision.
        parts: regular expression for the names of what is quantized.
        clips: clip -> input.
        expected: clip -> output -> array.
        calibration: inputs [clips, ...], for int8.
    """

    graph: Graph
    files: dict[str, str]
    parts: str
    clips: dict[str, np.ndarray]
    expected: dict[str, dict[str, np.ndarray]]
    calibration: np.ndarray | None = None


def _convert(
    variants: Sequence[_Variant], folder: pathlib.Path, accept_errors: bool
) -> dict[str, dict]:
    """Writes the files of all variants; returns file name -> what the card says of it."""
    # One process for all conversions, one for all quantizations and one for all checks, since a
    # start of TensorFlow takes as long as several of them.
    conversions, quantizations, checks = [], [], []
    # In the output's folder, so that a full disk is one that the user has named.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for i, variant in enumerate(variants):
            spec, base = variant.graph.input, pathlib.Path(temporary) / str(i)
            write_saved_model(variant.graph, base)
            float32, calibration = base.with_suffix(".tflite"), base.with_suffix(".npz")
            conversions.append({"saved_model": str(base), "output": str(float32)})
            if variant.calibration is not None:
                inputs = {spec.name: variant.calibration}
                np.savez(calibration, **inputs)  # type: ignore[arg-type]  # taken for allow_pickle
            for name, precision in variant.files.items():
                if precision != "float32":
                    job = {"file": str(float32), "output": str(folder / name)}
                    job |= {"precision": precision, "parts": variant.parts}
                    job |= {"calibration": str(calibration)} if precision == "int8" else {}
                    quantizations.append(job)
                limits = "any" if accept_errors else precision
                check = Check(name, variant.clips, variant.expected, None, folder / name)
                checks.append(check._replace(input_name=spec.name, precision=limits))
        _run("convert", conversions, temporary)
        for variant, job in zip(variants, conversions, strict=True):
            for name, precision in variant.files.items():
                if precision == "float32":
                    shutil.copy(job["output"], folder / name)
        if quantizations:
            _run("quantize", quantizations, temporary)
    results = check_in_fresh_process(checks)
    described = [
        {
            "precision": precision,
            "input": variant.graph.input.name,
            "shape": [-1 if size is None else size for size in variant.graph.input.shape],
        }
        for variant in variants
        for precision in variant.files.values()
    ]
    return {
        check.name: about
        | {"dtype": result["tflite"].pop("dtype"), "bytes": (folder / check.name).stat().st_size}
        | result["tflite"]
        for check, about, result in zip(checks, described, results, strict=True)
    }


def _files(parts: list[str], precisions: Sequence[str]) -> dict[str, str]:
    """File name -> precision."""
    return {"_".join([*parts, *_unless(p, "float32")]) + ".tflite": p for p in precisions}


def _calibration_patches(encoder, waveforms):
    """Up to 128 patches, evenly spread over waveforms, after one of silence."""
    length = encoder.log_mel.patch_samples
    places = [
        (waveform, start)
        for waveform in waveforms
        for start in range(0, max(len(waveform) - length, 0) + 1, length)
    ]
    chosen = np.unique(np.linspace(0, len(places) - 1, CALIBRATION_PATCHES).round().astype(int))
    patches = [np.zeros([1, length])]
    for waveform, start in (places[i] for i in (chosen if places else [])):
        patches.append(one_patch(encoder, np.nan_to_num(waveform[start : start + length])))
    return np.concatenate(patches).astype(np.float32)


def _whole_frames(seconds: float, separator: Separator) -> int:
    """Samples, a multiple of the basis's hop, so that recordings can be cut on its grid."""
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds={seconds}: expected more than 0")
    hop = separator.basis.hop
    return math.ceil(seconds * separator.sample_rate / hop) * hop


def _of_length(clip: np.ndarray, samples: int) -> np.ndarray:
    """A clip [1, any] cut, or repeated to `samples`."""
    return np.resize(clip, [1, samples])


def _usable_calibration(waveforms: Iterable[np.ndarray]) -> list[np.ndarray]:
    waveforms = list(waveforms)
    if not waveforms:
        raise InputError(
            "precision 'int8': expected recordings to calibrate on, like those that the encoder "
            "will meet"
        )
    for i, waveform in enumerate(waveforms):
        if np.ndim(waveform) != 1 or not np.issubdtype(np.asarray(waveform).dtype, np.floating):
            raise InputError(
                f"calibration[{i}]: of shape {np.shape(waveform)} and type "
                f"{np.asarray(waveform).dtype}; expected floating-point waveforms [samples]"
            )
    return waveforms


def _unless(value: str, default: str) -> list[str]:
    return [] if value == default else [value]


def _require_precisions(values: Sequence[str], known: Sequence[str]) -> None:
    require_some("precision", values, known)
    if set(values) != {"float32"} and importlib.util.find_spec("ai_edge_quantizer") is None:
        raise InputError(
            "TF Lite in less than float32 needs ai-edge-quantizer; expected the extra 'tflite': "
            "pip install 'sepssl[tflite]'"
        )


def _run(task: str, jobs: list[dict], folder: str) -> None:
    """Converts or quantizes in a process of its own, since the converter aborts on some inputs."""
    path = pathlib.Path(folder) / f"{task}.json"
    path.write_text(json.dumps(jobs))
    process = run_script(conversion.__file__, task, str(path))
    if process.returncode != 0:
        started = [json.loads(line) for line in process.stdout.splitlines() if line[:1] == "{"]
        name = f"{pathlib.Path(started[-1]['output']).name}: " if task == "quantize" else ""
        raise ExportError(
            f"{name}conversion to TF Lite failed with exit status {process.returncode}: "
            + _summary(process.stderr)
        )


def _summary(stderr):
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # The converter names the operators on lines `loc(...): error: ...`, far above the traceback;
    # an abort leaves only its last words.
    told = [line.rsplit("error: ", 1)[1] for line in lines if re.search(r"[)0]: error: ", line)]
    return " | ".join(dict.fromkeys(told or lines[-5:]))[:2000]
