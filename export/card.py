"""The model card in an export: what it is, what it was trained on, made with what, checked how."""

import datetime
import hashlib
import json
import pathlib

import keras
import tensorflow as tf

from sepssl.evaluation.window_classifier import WindowClassifier
from sepssl.export.origin import Origin
from sepssl.representation.encoder import Encoder
from sepssl.separation.separator import Separator
from sepssl.version import __version__

MANIFEST = "manifest.sha256"

_SAVED_MODEL = """\
    import tensorflow as tf
    loaded = tf.saved_model.load("DIRECTORY")
    outputs = loaded.signatures["serving_default"](waveform=tf.zeros([1, {rate}]))

In a Keras 3 model: `keras.layers.TFSMLayer("DIRECTORY", call_endpoint="serving_default")`.
"""

_TFLITE = """\
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter  # or tf.lite.Interpreter
    run = Interpreter("DIRECTORY/{file}").get_signature_runner("serving_default")
    outputs = run({input}=np.zeros({shape}, np.{dtype}))
"""

_ONNX = """\
    import numpy as np
    import onnxruntime
    session = onnxruntime.InferenceSession("DIRECTORY/{file}")
    outputs = session.run(None, {{"{input}": np.zeros({shape}, np.{dtype})}})
"""

_HEAR = """\
    import sepssl_hear  # with DIRECTORY in PYTHONPATH; needs TensorFlow, not sepssl
    model = sepssl_hear.load_model()
    embeddings = sepssl_hear.get_scene_embeddings(audio, model)
    embeddings, milliseconds = sepssl_hear.get_timestamp_embeddings(audio, model)

It is a SavedModel as well: `tf.saved_model.load("DIRECTORY")(waveform)`.
"""

_FORMATS = {
    "saved_model": "a SavedModel",
    "tflite": "TF Lite",
    "onnx": "ONNX",
    "hear": "a HEAR module",
}
_TITLES = {
    "encoder": "Audio encoder",
    "separator": "Sound separator",
    "scene": "Separator and encoder",
    "classifier": "Sound classifier",
}

_README = """\
# {title}

Written by sepssl {version} as {format}. To load it:

{loading}
## Input and output

`waveform`: float32 [batch, samples], mono, {rate} Hz, in [-1, 1], one sample or more. Samples that
are NaN, infinite or beyond 1e10 count as zeros. (Files of other inputs: see the table.)

{outputs}

## Training

{training}

## Checks

Compared with the Keras model on fixed clips (silence, noise, a sine, a single sample, lengths
around one patch, samples that are not finite):

{checks}

## Versions, licence

sepssl {version}, Keras {keras}, TensorFlow {tensorflow}. {license}

`card.json` has all of this for programs; `sha256sum -c {manifest}` checks the files.
"""


def describe_encoder(encoder: Encoder) -> dict:
    """What `card.json` says of an encoder: kind, sample rate, sizes, and outputs -> shapes."""
    log_mel, size = encoder.log_mel, encoder.embedding_size
    return {
        "kind": "encoder",
        "sample_rate": encoder.sample_rate,
        "embedding_size": size,
        "parameters": encoder.count_params(),
        "patch_seconds": log_mel.patch_samples / encoder.sample_rate,
        "patch_hop_seconds": log_mel.patch_hop_samples / encoder.sample_rate,
        "log_mel": {
            key: value
            for key, value in log_mel.get_config().items()
            if isinstance(value, int | float) and key != "trainable"
        },
        "outputs": {"embedding": ["batch", size]},
    }


def describe_separator(separator: Separator) -> dict:
    """As `describe_encoder`, of a separator."""
    return {
        "kind": "separator",
        "sample_rate": separator.sample_rate,
        "sources": separator.num_sources,
        "parameters": separator.count_params(),
        "outputs": {"sources": ["batch", separator.num_sources, "samples"]},
    }


def describe_scene(separator: Separator, encoder: Encoder) -> dict:
    """As `describe_encoder`, of a separator and an encoder in one."""
    sources, size = separator.num_sources, encoder.embedding_size
    return describe_encoder(encoder) | {
        "kind": "scene",
        "sources": sources,
        "parameters": separator.count_params() + encoder.count_params(),
        "outputs": {
            "embedding": ["batch", size],
            "channel_embeddings": ["batch", sources, size],
            "channel_energies": ["batch", sources],
        },
    }


def describe_classifier(encoder: Encoder, classifier: WindowClassifier) -> dict:
    """As `describe_encoder`, of an encoder with a classifier of its embeddings."""
    window = (classifier.about.get("settings") or {}).get("window_samples")
    return describe_encoder(encoder) | {
        "kind": "classifier",
        "classes": list(classifier.classes),
        "thresholds": classifier.thresholds.tolist(),
        "window_seconds": window and window / encoder.sample_rate,
        "outputs": {
            "scores": ["batch", len(classifier.classes)],
            "embedding": ["batch", encoder.embedding_size],
        },
    }


def write_card(
    folder: pathlib.Path, file_format: str, about: dict, checks: dict, origin: Origin | None
) -> dict:
    """Writes `README.md`, `card.json` and the manifest into an export's folder.

    Args:
        folder: holds the export, and nothing else.
        file_format: `saved_model`, `tflite`, `onnx` or `hear`.
        about: what was exported, from `describe_encoder` and its like.
        checks: `max_error`, `relative_error`, `cosine` of a SavedModel; of TF Lite and ONNX a
            dict of such for each file, with `precision`, `input`, `bytes` and `milliseconds` too.
        origin: where the weights come from.

    Returns:
        The content of `card.json`.
    """
    origin = origin or Origin()
    card = {
        **about,
        "format": file_format,
        "sepssl": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "license": origin.license,
        "input": {
            "name": "waveform",
            "dtype": "float32",
            "shape": ["batch", "samples"],
            "range": [-1.0, 1.0],
            "shortest": 1,
            "not_finite": "counts as zero",
        },
        "outputs": {
            name: {"dtype": "float32", "shape": shape} for name, shape in about["outputs"].items()
        },
        "checks": checks,
        "training": list(origin.models),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(card), encoding="utf-8")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")
    return card


def _readme(card: dict) -> str:
    return _README.format(
        title=_TITLES[card["kind"]],
        version=card["sepssl"],
        format=_FORMATS[card["format"]],
        loading=_loading(card),
        rate=card["sample_rate"],
        outputs="\n".join(
            f"`{name}`: float32 [{', '.join(map(str, output['shape']))}]"
            for name, output in card["outputs"].items()
        ),
        training="\n\n".join(map(_trained, card["training"])) or "Not known.",
        checks=_checks(card["checks"]),
        keras=card["keras"],
        tensorflow=card["tensorflow"],
        license=(
            f"Licence of the weights: {card['license']}."
            if card["license"]
            else "No licence was stated."
        ),
        manifest=MANIFEST,
    )


def _loading(card: dict) -> str:
    texts = {"saved_model": _SAVED_MODEL, "tflite": _TFLITE, "onnx": _ONNX, "hear": _HEAR}
    text = texts[card["format"]]
    if "cosine" in card["checks"]:
        return text.format(rate=card["sample_rate"])
    file, check = next(iter(card["checks"].items()))
    return text.format(
        file=file,
        input=check["input"],
        shape=[(1, card["sample_rate"])[i] if n < 0 else n for i, n in enumerate(check["shape"])],
        dtype=check["dtype"],
    )


def _trained(record: dict) -> str:
    text = f"`{record['file']}`, SHA-256 {record['sha256']}"
    if "config" not in record:
        return text + ": in no run's folder, so what it was trained on is not known."
    config, metrics = record["config"], record.get("metrics", {})
    data = config.get("data", {})
    sounds = data.get("directory") or f"{data.get('num_clips')} built-in scenes"
    steps = metrics.get("step", config.get("train", {}).get("steps"))
    text += f": task {config.get('task')}, {steps} steps on {sounds}.\n\n"
    return text + "\n".join(
        f"- {name}: {value:.4g}" for name, value in metrics.items() if isinstance(value, float)
    )


def _checks(checks: dict) -> str:
    if "cosine" in checks:
        return (
            f"largest error {checks['max_error']:.2g}, relative to the largest value of the clip's "
            f"output {checks['relative_error']:.2g}, lowest cosine {checks['cosine']:.6f}."
        )
    rows = [
        "| file | takes | size | lowest cosine | largest error | one clip, one thread |",
        "|---|---|---|---|---|---|",
    ]
    for name, check in checks.items():
        shape = [("batch", "samples")[i] if n < 0 else n for i, n in enumerate(check["shape"])]
        rows.append(
            f"| `{name}` | `{check['input']}`, {check['dtype']} [{', '.join(map(str, shape))}] | "
            f"{check['bytes'] / 1e3:.0f} kB | {check['cosine']:.6f} | {check['max_error']:.2g} | "
            f"{check['milliseconds']:.2g} ms |"
        )
    rows += ["", "The clip timed is silence of one patch (of a separator: of one second)."]
    return "\n".join(rows)
