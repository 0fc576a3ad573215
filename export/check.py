"""Do exported files compute what the model computed? Answered without the model's code.

    python -m sepssl.export.check --saved_model=DIR --tflite=FILE --expected=FILE.npz

The `.npz` file holds, for every clip, its input and the outputs expected of it, each under the name
that it has in the export, then "_" and the clip's name: `waveform_NAME` [batch, samples] and
`embedding_NAME` [batch, embedding_size] of an encoder. Prints one line of JSON; the exit status is
1 if an export is wrong. This file imports nothing from sepssl when run, so it also works copied to
another machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

# Largest error, as a part of the largest value of the clip's output, and lowest cosine.
SAVED_MODEL_LIMITS = {"relative_error": 1e-5, "cosine": 0.9999}
TFLITE_LIMITS = {
    "float32": {"relative_error": 1e-3, "cosine": 0.9999},
    "float16": {"cosine": 0.9999},
    "dynamic": {"cosine": 0.999},
    "int8": {"cosine": 0.98},
    "any": {},
}


def check_exports(
    saved_model_dir: str | os.PathLike | None, tflite_path: str | os.PathLike | None, encoder
) -> dict:
    """Compares exports with the encoder they came from, in a fresh process.

    Args:
        saved_model_dir: folder written by `save_encoder`, or None.
        tflite_path: float32 file written by `convert_encoder`, or None.
        encoder: the `Encoder`.

    Returns:
        `saved_model` and `tflite`, each with `max_error` (absolute), `relative_error` (to the
        largest value of the clip's embedding) and `cosine` (the lowest), `tflite` also with
        `milliseconds` (of one patch, on one thread) and the input's `dtype`; `tensorflow`, the
        version; `tflite_runtime`. What was not asked for is None.

    Raises:
        ExportError: if an export cannot be loaded, or is off by more than 1e-5 (SavedModel) or
            1e-3 (TF Lite), or by a cosine below 0.9999.
    """
    from sepssl.export.clips import encoder_clips, expected_outputs

    clips = encoder_clips(encoder)
    expected = expected_outputs(encoder, clips, "embedding")
    return check_in_fresh_process(saved_model_dir, tflite_path, clips, expected)


def check_in_fresh_process(
    saved_model: str | os.PathLike | None,
    tflite: str | os.PathLike | None,
    clips: dict[str, np.ndarray],
    expected: dict[str, dict[str, np.ndarray]],
    input: str = "waveform",
    precision: str = "float32",
) -> dict:
    """`check_exports` against given outputs.

    Args:
        saved_model, tflite: what to check, or None.
        clips: name -> input.
        expected: name -> output -> array.
        input: the input's name.
        precision: a key of `TFLITE_LIMITS`.
    """
    from sepssl.export.errors import ExportError

    with tempfile.TemporaryDirectory() as temporary:
        pairs = pathlib.Path(temporary) / "expected.npz"
        arrays = {f"{input}_{name}": clip for name, clip in clips.items()}
        for name, outputs in expected.items():
            arrays |= {f"{output}_{name}": value for output, value in outputs.items()}
        np.savez(pairs, **arrays)
        # Run by its path, without that path's folder in front of sys.path (-P).
        command = [sys.executable, "-P", __file__, f"--expected={pairs}"]
        command += [f"--saved_model={os.fspath(saved_model)}"] if saved_model else []
        command += [f"--tflite={os.fspath(tflite)}"] if tflite else []
        command += [f"--precision={precision}"]
        # On the CPU, as the expected outputs were.
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
        process = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        result = json.loads(process.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        tail = " | ".join(process.stderr.strip().splitlines()[-5:])[:2000]
        result = {"error": f"exit status {process.returncode}: {tail}"}
    if "error" in result:
        raise ExportError(f"check of the export: {result['error']}")
    return result


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
    ((input, detail),) = runner.get_input_details().items()
    details = runner.get_output_details()

    def run(clip):
        return runner(**{input: _quantized(clip, detail)})

    found = {
        name: [{key: _dequantized(value, details[key]) for key, value in run(clip).items()}]
        for name, clip in clips.items()
    }
    one = clips.get("silence", next(iter(clips.values())))
    seconds = []
    for _ in range(15):
        start = time.perf_counter()
        run(one)
        seconds.append(time.perf_counter() - start)
    return found, 1e3 * float(np.median(seconds))


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
    saved_model: str | None, tflite: str | None, expected: str, precision: str = "float32"
) -> dict:
    """What `check_exports` returns, from arrays stored in an `.npz` file."""
    with np.load(expected, allow_pickle=False) as stored:
        arrays = dict(stored)
    if not saved_model and not tflite:
        raise ValueError("nothing to check; expected a SavedModel, a TF Lite file, or both")
    result = dict.fromkeys(("saved_model", "tflite", "tensorflow", "tflite_runtime"))
    if saved_model:
        clips = _named(arrays, "waveform")
        found = saved_model_outputs(saved_model, clips)
        wanted = _expected(arrays, clips, "waveform")
        result["saved_model"] = compare(wanted, found, SAVED_MODEL_LIMITS)
    if tflite:
        input, dtype = tflite_input(tflite)
        clips = _named(arrays, input)
        found, milliseconds = tflite_outputs(tflite, clips)
        wanted = _expected(arrays, clips, input)
        result["tflite"] = compare(wanted, found, TFLITE_LIMITS[precision])
        result["tflite"] |= {"milliseconds": milliseconds, "dtype": dtype}
        result["tflite_runtime"] = _tflite_interpreter().__module__.split(".")[0]
    if "tensorflow" in sys.modules:
        result["tensorflow"] = sys.modules["tensorflow"].__version__
    return result


def _named(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = name + "_"
    clips = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    if not clips:
        raise ValueError(f"no {prefix}NAME among {', '.join(arrays)}")
    return clips


def _expected(arrays, clips, input):
    """Clip -> output -> array: whatever is no input and ends in a clip's name."""
    expected = {name: {} for name in clips}
    for key in set(arrays) - {f"{input}_{name}" for name in clips}:
        name = max((name for name in clips if key.endswith(f"_{name}")), key=len, default=None)
        if name is not None:
            expected[name][key.removesuffix(f"_{name}")] = arrays[key]
    return expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saved_model", help="folder of a SavedModel")
    parser.add_argument("--tflite", help="TF Lite file")
    parser.add_argument("--expected", required=True, help=".npz file of inputs and outputs")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=list(TFLITE_LIMITS),
        help="of the TF Lite file, for the errors allowed",
    )
    arguments = parser.parse_args()
    try:
        result = check_files(**vars(arguments))
    except Exception as error:  # Loaders raise many kinds; the caller reads one line.
        result = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:2000]}
    print(json.dumps(result))
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
