"""Do exported files compute what the model computed? Answered without the model's code.

    python -m sepssl.export.check --saved_model=DIR --tflite=FILE --onnx=FILE --expected=FILE.npz
    python -m sepssl.export.check --jobs=FILE.json

The `.npz` file holds, for every clip, its input and the outputs expected of it, each under the
clip's name, "/", and the name that it has in the export: `CLIP/waveform` [batch, samples] and
`CLIP/embedding` [batch, embedding_size] of an encoder. A file of jobs holds a list of objects whose
keys are the other options. Prints a line of JSON for each job and stops at the first export that is
wrong, with exit status 1. This file imports nothing from sepssl when run, so it also works copied
to another machine.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

# Largest error, as a part of the largest value of the clip's output, and lowest cosine. An output
# shorter than "short" times the longest of any clip has hardly a direction, as the whitened
# embedding of silence, which is near the mean: there the cosine is the one that its error makes at
# that length.
SAVED_MODEL_LIMITS = {"relative_error": 1e-5, "cosine": 0.9999}
TFLITE_LIMITS = {
    "float32": {"relative_error": 1e-3, "cosine": 0.9999},
    "float16": {"cosine": 0.9999},
    "dynamic": {"cosine": 0.999},
    "int8": {"cosine": 0.98, "short": 0.5},
    "any": {},
}
# Most errors are 1e-6, but a tone leaves bands almost empty, in which rounding shows.
ONNX_LIMITS = {"float32": {"relative_error": 1e-3, "cosine": 0.9999}, "any": {}}


Outputs = dict[str, np.ndarray]  # output -> array


def saved_model_outputs(
    directory: str | os.PathLike, clips: dict[str, np.ndarray]
) -> dict[str, list[Outputs]]:
    """Clip -> outputs, by the call and by every signature."""
    import tensorflow as tf

    loaded = tf.saved_model.load(os.fspath(directory))
    signatures = {key: loaded.signatures[key] for key in loaded.signatures}
    found = {}
    for name, clip in clips.items():
        waveform = tf.constant(clip)
        served = signatures["serving_default"](waveform=waveform)
        called = loaded(waveform)
        called = called if isinstance(called, dict) else dict.fromkeys(served, called)
        found[name] = [called, served]
        if "scene" in signatures:
            found[name].append(signatures["scene"](waveform=waveform))
        if "patches" in signatures:
            patches = signatures["patches"](waveform=waveform)["embedding"]
            found[name].append({"embedding": tf.reduce_mean(patches, axis=1)})
        if "windows" in signatures:
            windows = signatures["windows"](waveform=waveform)
            windows = {f"windows.{key}": value for key, value in windows.items()}
            found[name] = [way | windows for way in found[name]]
        if "timestamps" in signatures:  # of HEAR, beside what every way computes
            timestamps = signatures["timestamps"](waveform=waveform)["embedding"]
            found[name] = [way | {"timestamps": timestamps} for way in found[name]]
    return {
        name: [{key: value.numpy() for key, value in way.items()} for way in ways]
        for name, ways in found.items()
    }


def tflite_input(path: str | os.PathLike) -> tuple[str, str]:
    """Name and dtype of the one input of the signature `serving_default`."""
    runner = _tflite_interpreter()(os.fspath(path)).get_signature_runner("serving_default")
    ((name, detail),) = runner.get_input_details().items()
    return name, np.dtype(detail["dtype"]).name


def tflite_outputs(
    path: str | os.PathLike, clips: dict[str, np.ndarray]
) -> tuple[dict[str, list[Outputs]], float]:
    """Clip -> outputs by the signature `serving_default`, and the median milliseconds of one clip.

    On one thread; that of the clip "silence", which is one patch, if there is one. Integers are
    scaled as the file says.
    """
    interpreter = _tflite_interpreter()(os.fspath(path), num_threads=1)
    runner = interpreter.get_signature_runner("serving_default")
    ((input_name, detail),) = runner.get_input_details().items()
    details = runner.get_output_details()

    def run(clip):
        return runner(**{input_name: _quantized(clip, detail)})

    found = {
        name: [{key: _dequantized(value, details[key]) for key, value in run(clip).items()}]
        for name, clip in clips.items()
    }
    return found, _milliseconds(run, clips)


def onnx_outputs(
    path: str | os.PathLike, clips: dict[str, np.ndarray]
) -> tuple[dict[str, list[Outputs]], float]:
    """Clip -> outputs by onnxruntime, and milliseconds as of `tflite_outputs`."""
    session = _onnx_session(path)
    (details,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def run(clip):
        return dict(zip(names, session.run(names, {details.name: clip}), strict=True))

    found = {name: [run(clip)] for name, clip in clips.items()}
    return found, _milliseconds(run, clips)


def _onnx_session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )


def _milliseconds(run, clips):
    """Median over runs of the clip "silence", or of the first if there is none."""
    one = clips.get("silence", next(iter(clips.values())))
    seconds = []
    for _ in range(15):
        start = time.perf_counter()
        run(one)
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def _quantized(values, detail):
    if np.issubdtype(detail["dtype"], np.floating):
        return values
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _dequantized(values, detail):
    if np.issubdtype(values.dtype, np.floating):
        return values
    scale, zero = detail["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)


def _tflite_interpreter():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter


def compare(
    expected: dict[str, Outputs], found: dict[str, list[Outputs]], limits: dict[str, float]
) -> dict[str, float]:
    """The worst `max_error`, `relative_error` and `cosine` over clips and outputs.

    Errors are of a clip's output as a whole; cosines of every item of its batch.

    Raises:
        ValueError: if a shape differs, a value is not finite, or a limit is passed.
    """
    worst = {"max_error": 0.0, "relative_error": 0.0, "cosine": 1.0}
    longest: dict[str, float] = collections.defaultdict(float)  # of an output
    for outputs in expected.values():
        for key, value in outputs.items():
            lengths = np.linalg.norm(value.astype(np.float64).reshape(len(value), -1), axis=-1)
            longest[key] = max(longest[key], float(np.max(lengths)))
    for name, outputs in expected.items():
        missing = [key for key in outputs for way in found[name] if key not in way]
        if missing or not outputs:
            raise ValueError(f"clip '{name}': no {', '.join(missing) or 'output'} to compare")
        for key, value in ((key, way[key]) for way in found[name] for key in outputs):
            reference = outputs[key]
            if value.shape != reference.shape:
                raise ValueError(
                    f"clip '{name}': {key} of shape {value.shape}; expected {reference.shape}"
                )
            if not np.all(np.isfinite(value)):
                raise ValueError(f"clip '{name}': {key} is not finite")
            a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (reference, value))
            error = np.max(np.abs(a - b))
            relative = error / max(np.max(np.abs(a)), 1e-30)
            norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            # Two outputs of zeros agree; if only one is zeros, nothing of it is right.
            zeros = ~np.any(a, axis=-1) & ~np.any(b, axis=-1)
            cosines = np.sum(a * b, axis=-1) / np.where(norms > 0, norms, 1.0)
            short = limits.get("short", 0.0) * longest[key]
            angles = np.linalg.norm(a - b, axis=-1) / max(short, 1e-30)
            cosines = np.where(np.linalg.norm(a, axis=-1) < short, 1 - angles**2 / 2, cosines)
            cosine = np.min(np.where(zeros, 1.0, cosines))
            worst["max_error"] = max(worst["max_error"], float(error))
            worst["relative_error"] = max(worst["relative_error"], float(relative))
            worst["cosine"] = min(worst["cosine"], float(cosine))
            if relative > limits.get("relative_error", np.inf):
                raise ValueError(
                    f"clip '{name}': relative error of {key} {relative:.2g}; expected at most "
                    f"{limits['relative_error']:g}"
                )
            if cosine < limits.get("cosine", -np.inf):
                raise ValueError(
                    f"clip '{name}': cosine of {key} {cosine:.6f}; expected at least "
                    f"{limits['cosine']}"
                )
    return worst


def check_files(
    saved_model: str | None,
    tflite: str | None,
    expected: str,
    precision: str = "float32",
    onnx: str | None = None,
) -> dict:
    """What `check_exports` returns, from arrays stored in an `.npz` file."""
    with np.load(expected, allow_pickle=False) as stored:
        arrays = dict(stored)
    if not saved_model and not tflite and not onnx:
        raise ValueError("nothing to check; expected a SavedModel, a TF Lite or an ONNX file")
    result: dict[str, Any] = dict.fromkeys(
        ("saved_model", "tflite", "onnx", "tensorflow", "tflite_runtime")
    )
    if saved_model:
        clips, wanted = _split(arrays, "waveform")
        found = saved_model_outputs(saved_model, clips)
        result["saved_model"] = compare(wanted, found, SAVED_MODEL_LIMITS)
    if tflite:
        input_name, dtype = tflite_input(tflite)
        clips, wanted = _split(arrays, input_name)
        found, milliseconds = tflite_outputs(tflite, clips)
        result["tflite"] = compare(wanted, found, TFLITE_LIMITS[precision])
        result["tflite"] |= {"milliseconds": milliseconds, "dtype": dtype}
        result["tflite_runtime"] = _tflite_interpreter().__module__.split(".")[0]
    if onnx:
        (details,) = _onnx_session(onnx).get_inputs()
        clips, wanted = _split(arrays, details.name)
        found, milliseconds = onnx_outputs(onnx, clips)
        result["onnx"] = compare(wanted, found, ONNX_LIMITS[precision]) | {
            "milliseconds": milliseconds
        }
    if "tensorflow" in sys.modules:
        result["tensorflow"] = sys.modules["tensorflow"].__version__
    return result


def _split(
    arrays: dict[str, np.ndarray], input_name: str
) -> tuple[dict[str, np.ndarray], dict[str, Outputs]]:
    """Arrays by "clip/name" as clip -> input and clip -> output -> array."""
    clips: dict[str, np.ndarray] = {}
    expected: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        clip, _, name = path.rpartition("/")
        if name == input_name:
            clips[clip] = array
        else:
            expected.setdefault(clip, {})[name] = array
    if not clips:
        raise ValueError(f"no CLIP/{input_name} among {', '.join(arrays)}")
    return clips, {clip: expected.get(clip, {}) for clip in clips}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saved_model", help="folder of a SavedModel")
    parser.add_argument("--tflite", help="TF Lite file")
    parser.add_argument("--onnx", help="ONNX file")
    parser.add_argument("--expected", help=".npz file of inputs and outputs")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=list(TFLITE_LIMITS),
        help="of the TF Lite or ONNX file, for the errors allowed",
    )
    parser.add_argument("--jobs", help=".json file, a list of objects with the options above")
    options = vars(parser.parse_args())
    path = options.pop("jobs")
    if not (path or options["expected"]):
        parser.error("one of --expected and --jobs is required")
    for job in json.loads(pathlib.Path(path).read_text()) if path else [options]:
        try:
            result = check_files(**job)
        except Exception as error:  # Loaders raise many kinds; the caller reads one line.
            result = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:2000]}
        print(json.dumps(result), flush=True)
        if "error" in result:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
