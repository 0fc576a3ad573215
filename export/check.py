"""Do exported files compute what the encoder computed? Answered without the encoder's code.

    python -m sepssl.export.check --saved_model=DIR --tflite=FILE --expected=FILE.npz

The `.npz` file holds pairs `waveform_NAME` [batch, samples] and `embedding_NAME` [batch,
embedding_size]. Prints one line of JSON; the exit status is 1 if an export is wrong. This file
imports nothing from sepssl when run, so it also works copied to another machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

# Largest error, as a part of the largest value of the clip's embedding, and lowest cosine.
SAVED_MODEL_LIMITS = {"relative_error": 1e-5, "cosine": 0.9999}
TFLITE_LIMITS = {"relative_error": 1e-3, "cosine": 0.9999}


def check_exports(
    saved_model_dir: str | os.PathLike | None, tflite_path: str | os.PathLike | None, encoder
) -> dict:
    """Compares exports with the encoder they came from, in a fresh process.

    Args:
        saved_model_dir: folder written by `save_encoder`, or None.
        tflite_path: file written by `convert_encoder`, or None.
        encoder: the `Encoder`.

    Returns:
        `saved_model` and `tflite`, each with `max_error` (absolute), `relative_error` (to the
        largest value of the clip's embedding) and `cosine` (the lowest); `tensorflow`, the
        version; `tflite_runtime`. What was not asked for is None.

    Raises:
        ExportError: if an export cannot be loaded, or is off by more than 1e-5 (SavedModel) or
            1e-3 (TF Lite), or by a cosine below 0.9999.
    """
    from sepssl.export.clips import expected_embeddings, fixed_clips

    clips = fixed_clips(encoder)
    expected = expected_embeddings(encoder, clips)
    return check_in_fresh_process(saved_model_dir, tflite_path, clips, expected)


def check_in_fresh_process(
    saved_model: str | os.PathLike | None,
    tflite: str | os.PathLike | None,
    clips: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
) -> dict:
    """`check_exports` against given embeddings: name -> [batch, embedding_size]."""
    from sepssl.export.errors import ExportError

    with tempfile.TemporaryDirectory() as temporary:
        pairs = pathlib.Path(temporary) / "expected.npz"
        np.savez(
            pairs,
            **{f"waveform_{name}": clip for name, clip in clips.items()},
            **{f"embedding_{name}": embedding for name, embedding in expected.items()},
        )
        # Run by its path, without that path's folder in front of sys.path (-P).
        command = [sys.executable, "-P", __file__, f"--expected={pairs}"]
        command += [f"--saved_model={os.fspath(saved_model)}"] if saved_model else []
        command += [f"--tflite={os.fspath(tflite)}"] if tflite else []
        # On the CPU, as the expected embeddings were.
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


def saved_model_embeddings(
    directory: str | os.PathLike, clips: dict[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Name -> embeddings [batch, embedding_size] by the call and by both signatures."""
    import tensorflow as tf

    loaded = tf.saved_model.load(os.fspath(directory))
    serve, patches = (loaded.signatures[key] for key in ("serving_default", "patches"))
    embeddings = {}
    for name, clip in clips.items():
        waveform = tf.constant(clip)
        embeddings[name] = [
            loaded(waveform).numpy(),
            serve(waveform=waveform)["embedding"].numpy(),
            patches(waveform=waveform)["embedding"].numpy().mean(axis=1),
        ]
    return embeddings


def tflite_embeddings(
    path: str | os.PathLike, clips: dict[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Name -> embeddings [batch, embedding_size] by the signature `serving_default`."""
    runner = _tflite_interpreter()(os.fspath(path)).get_signature_runner("serving_default")
    return {name: [runner(waveform=clip)["embedding"]] for name, clip in clips.items()}


def _tflite_interpreter():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter


def compare(
    expected: dict[str, np.ndarray], found: dict[str, list[np.ndarray]], limits: dict[str, float]
) -> dict[str, float]:
    """The worst `max_error`, `relative_error` and `cosine` over clips.

    Raises:
        ValueError: if a shape differs, a value is not finite, or a limit is passed.
    """
    worst = {"max_error": 0.0, "relative_error": 0.0, "cosine": 1.0}
    for name, reference in expected.items():
        for embedding in found[name]:
            if embedding.shape != reference.shape:
                raise ValueError(
                    f"clip '{name}': shape {embedding.shape}; expected {reference.shape}"
                )
            if not np.all(np.isfinite(embedding)):
                raise ValueError(f"clip '{name}': embedding is not finite")
            a, b = reference.astype(np.float64), embedding.astype(np.float64)
            error = np.max(np.abs(a - b))
            relative = error / max(np.max(np.abs(a)), 1e-30)
            norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            # Two embeddings of zeros agree; the error above tells if only one is zeros.
            cosine = np.min(
                np.where(norms > 0, np.sum(a * b, axis=-1), 1.0) / (norms + (norms == 0))
            )
            worst["max_error"] = max(worst["max_error"], float(error))
            worst["relative_error"] = max(worst["relative_error"], float(relative))
            worst["cosine"] = min(worst["cosine"], float(cosine))
            if relative > limits["relative_error"] or cosine < limits["cosine"]:
                raise ValueError(
                    f"clip '{name}': relative error {relative:.2g}, cosine {cosine:.6f}; expected "
                    f"at most {limits['relative_error']:g}, at least {limits['cosine']}"
                )
    return worst


def check_files(saved_model: str | None, tflite: str | None, expected: str) -> dict:
    """What `check_exports` returns, from embeddings stored in an `.npz` file."""
    with np.load(expected, allow_pickle=False) as stored:
        names = [key.removeprefix("waveform_") for key in stored if key.startswith("waveform_")]
        clips = {name: stored[f"waveform_{name}"] for name in names}
        embeddings = {name: stored[f"embedding_{name}"] for name in names}
    result = dict.fromkeys(("saved_model", "tflite", "tensorflow", "tflite_runtime"))
    if saved_model:
        found = saved_model_embeddings(saved_model, clips)
        result["saved_model"] = compare(embeddings, found, SAVED_MODEL_LIMITS)
    if tflite:
        found = tflite_embeddings(tflite, clips)
        result["tflite"] = compare(embeddings, found, TFLITE_LIMITS)
        result["tflite_runtime"] = _tflite_interpreter().__module__.split(".")[0]
    if "tensorflow" in sys.modules:
        result["tensorflow"] = sys.modules["tensorflow"].__version__
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saved_model", help="folder of a SavedModel")
    parser.add_argument("--tflite", help="TF Lite file")
    parser.add_argument("--expected", required=True, help=".npz file of waveforms and embeddings")
    arguments = parser.parse_args()
    try:
        result = check_files(**vars(arguments))
    except Exception as error:  # Loaders raise many kinds; the caller reads one line.
        result = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:2000]}
    print(json.dumps(result))
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
