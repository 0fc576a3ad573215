"""The model card beside an export: what it is, made with what, checked how."""

import datetime
import hashlib
import json
import pathlib

import keras
import tensorflow as tf

import sepssl
from sepssl.representation.encoder import Encoder

_LOADING = {
    "saved_model": """\
    import tensorflow as tf
    loaded = tf.saved_model.load("{name}")
    embedding = loaded(tf.zeros([1, {rate}]))  # [1, {size}]

In a Keras 3 model: `keras.layers.TFSMLayer("{name}", call_endpoint="serving_default")`.
The signature `patches` gives one embedding every {hop:.3g} s instead of their mean.
""",
    "tflite": """\
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter  # or tf.lite.Interpreter
    run = Interpreter("{name}/encoder.tflite").get_signature_runner("serving_default")
    embedding = run(waveform=np.zeros([1, {rate}], np.float32))["embedding"]  # [1, {size}]
""",
}

_README = """\
# Audio encoder ({format})

Waveform in, embedding of {size} values out. Written by sepssl {version}.

{loading}
Input: float32 [batch, samples], mono, {rate} Hz, in [-1, 1], one sample or more. Samples that are
NaN, infinite or beyond 1e10 count as zeros. Largest error against the Keras model on fixed clips:
{error:.2g}. Versions, checks and SHA-256 sums are in `card.json`.
"""


def write_card(
    folder: pathlib.Path, encoder: Encoder, format: str, checks: dict[str, float]
) -> dict:
    """Writes `README.md` and `card.json` into an export's folder and returns the card.

    Args:
        folder: holds the export, and nothing else.
        encoder: what was exported.
        format: `saved_model` or `tflite`.
        checks: `max_error`, `relative_error`, `cosine`, as `check_exports` gives them.
    """
    rate, size = encoder.sample_rate, encoder.embedding_size
    log_mel = encoder.log_mel
    hop = log_mel.patch_hop_frames * log_mel.frame_hop / rate
    loading = _LOADING[format].format(name="DIRECTORY", rate=rate, size=size, hop=hop)
    readme = _README.format(
        format=format,
        size=size,
        version=sepssl.__version__,
        loading=loading,
        rate=rate,
        error=checks["max_error"],
    )
    (folder / "README.md").write_text(readme, encoding="utf-8")
    card = {
        "format": format,
        "sepssl": sepssl.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sample_rate": rate,
        "embedding_size": size,
        "parameters": encoder.count_params(),
        "patch_seconds": log_mel.patch_samples / rate,
        "patch_hop_seconds": hop,
        "input": {
            "name": "waveform",
            "dtype": "float32",
            "shape": ["batch", "samples"],
            "range": [-1.0, 1.0],
            "shortest": 1,
            "not_finite": "counts as zero",
        },
        "output": {"name": "embedding", "dtype": "float32", "shape": ["batch", size]},
        "checks": checks,
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    text = json.dumps(card, indent=2) + "\n"
    (folder / "card.json").write_text(text, encoding="utf-8")
    return card
