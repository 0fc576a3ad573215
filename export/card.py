"""The model card in an export: what it is, what it was trained on, made with what, checked how."""

import datetime
import hashlib
import json
import pathlib

import keras
import tensorflow as tf

from sepssl.evaluation.window_classifier import WindowClassifier
from sepssl.export.kaggle import MODEL, VARIATION, write_kaggle_metadata
from sepssl.export.origin import ATTRIBUTION, Origin
from sepssl.representation.encoder import Encoder
from sepssl.separation.separator import Separator
from sepssl.version import __version__

MANIFEST = "manifest.sha256"

_SAVED_MODEL = """\
    import tensorflow as tf
    loaded = tf.saved_model.load("{path}")
    outputs = loaded.signatures["serving_default"](waveform=tf.zeros([1, {rate}]))

In a Keras 3 model: `keras.layers.TFSMLayer("{path}", call_endpoint="serving_default")`.
"""

_TFLITE = """\
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter  # or tf.lite.Interpreter
    run = Interpreter("{path}").get_signature_runner("serving_default")
    outputs = run({input}=np.zeros({shape}, np.{dtype}))
"""

_ONNX = """\
    import numpy as np
    import onnxruntime
    session = onnxruntime.InferenceSession("{path}")
    outputs = session.run(None, {{"{input}": np.zeros({shape}, np.{dtype})}})
"""

_HEAR = """\
    import sepssl_hear  # with DIRECTORY in PYTHONPATH; needs TensorFlow, not sepssl
    model = sepssl_hear.load_model()
    embeddings = sepssl_hear.get_scene_embeddings(audio, model)
    embeddings, milliseconds = sepssl_hear.get_timestamp_embeddings(audio, model)

`sepssl_xares.SepsslEncoder` and `sepssl_mteb.SepsslEncoder` do the same for X-ARES and MTEB. It is
a SavedModel as well: `tf.saved_model.load("DIRECTORY")(waveform)`.
"""

_HUB = """\
    import sepssl
    {kind} = sepssl.load_{kind}("hf://OWNER/REPOSITORY")  # or "DIRECTORY"
{more}
DIRECTORY is a copy of this repository. Without sepssl:
"""
_HUB_CLASSIFIER = """
`classifier.npz` is for `sepssl-classify apply`, on an index of this encoder.
"""

_FORMATS = {
    "saved_model": "a SavedModel",
    "tflite": "TF Lite",
    "onnx": "ONNX",
    "hear": "a HEAR module",
    "hub": "a Keras model, a SavedModel, TF Lite and ONNX",
}
_TITLES = {
    "encoder": "Audio encoder",
    "separator": "Sound separator",
    "scene": "Separator and encoder",
    "classifier": "Sound classifier",
}

# What Hugging Face reads of a card: https://huggingface.co/docs/hub/model-cards
_METADATA = """\
---
{license}
library_name: sepssl
pipeline_tag: {task}
tags:
- audio
- {tag}
- keras
- tflite
- onnx
---

"""
_TASKS = {  # on Hugging Face, and what the model is there
    "encoder": ("feature-extraction", "audio-embedding"),
    "separator": ("audio-to-audio", "audio-source-separation"),
    "classifier": ("audio-classification", "sound-event-detection"),
}
# Identifiers that Hugging Face knows; a card with any other is refused.
_LICENSES = """
    apache-2.0 mit bsd-2-clause bsd-3-clause isc unlicense mpl-2.0 gpl-2.0 gpl-3.0 lgpl-2.1
    lgpl-3.0 agpl-3.0 openrail odbl cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 unknown
"""

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

`{card}` has all of this for programs; `sha256sum -c {manifest}` checks the files.
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
            if isinstance(value, int | float | str) and key not in ("name", "trainable")
        },
        "outputs": {"embedding": ["batch", size]},
    }


def describe_separator(separator: Separator) -> dict:
    """As `describe_encoder`, of a separator."""
    return {
        "kind": "separator",
        "sample_rate": separator.sample_rate,
        "sources": separator.num_sources,
        "hop_samples": separator.basis.hop,
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

    For a hub, `card.json` is called `config.json`, whose downloads Hugging Face counts, the README
    begins with the metadata that Hugging Face reads, and there is what Kaggle reads.

    Args:
        folder: holds the export, and nothing else.
        file_format: `saved_model`, `tflite`, `onnx`, `hear` or `hub`.
        about: what was exported, from `describe_encoder` and its like.
        checks: `max_error`, `relative_error`, `cosine` of a SavedModel; of other formats a dict of
            such for each file, with `precision`, `input` and `bytes` too, and `milliseconds` unless
            it is a SavedModel's.
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
        "attribution": [
            ATTRIBUTION if i == 0 else ATTRIBUTION.replace(".", f"_{i + 1}.")
            for i in range(len(origin.attributions))
        ],
    }
    for name, attribution in zip(card["attribution"], origin.attributions, strict=True):
        (folder / name).write_bytes(attribution)
    (folder / _card_name(card)).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(card), encoding="utf-8")
    if file_format == "hub":
        write_kaggle_metadata(folder, _TITLES[card["kind"]], _text(card), card["license"])
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MODEL, VARIATION)  # which are to be filled in
    ]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")
    return card


def _card_name(card: dict) -> str:
    return "config.json" if card["format"] == "hub" else "card.json"


def _metadata(card: dict) -> str:
    task, tag = _TASKS[card["kind"]]
    license = f"license: {card['license'].lower() or 'unknown'}"
    if license.removeprefix("license: ") not in _LICENSES.split():
        # A JSON string is one of YAML, too.
        license = f"license: other\nlicense_name: {json.dumps(card['license'])}"
    return _METADATA.format(license=license, task=task, tag=tag)


def _readme(card: dict) -> str:
    return (_metadata(card) if card["format"] == "hub" else "") + _text(card)


def _text(card: dict) -> str:
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
        training=_training(card),
        checks=_checks(card["checks"]),
        keras=card["keras"],
        tensorflow=card["tensorflow"],
        license=(
            f"Licence of the weights: {card['license']}."
            if card["license"]
            else "No licence was stated."
        ),
        card=_card_name(card),
        manifest=MANIFEST,
    )


_LOADING = {"saved_model": _SAVED_MODEL, "tflite": _TFLITE, "onnx": _ONNX, "hear": _HEAR}


def _loading(card: dict) -> str:
    rate, checks = card["sample_rate"], card["checks"]
    if "cosine" in checks:
        return _LOADING[card["format"]].format(path="DIRECTORY", rate=rate)
    if card["format"] != "hub":
        name, check = next(iter(checks.items()))
        return _loading_file(card["format"], name, check, rate)
    classifies = card["kind"] == "classifier"
    text = _HUB.format(
        kind="encoder" if classifies else card["kind"], more=_HUB_CLASSIFIER if classifies else ""
    )
    for name, check in checks.items():
        part = name.partition("/")[0]
        text += f"\nAs {_FORMATS[part]}:\n\n{_loading_file(part, name, check, rate)}"
    return text


def _loading_file(file_format: str, name: str, check: dict, rate: int) -> str:
    return _LOADING[file_format].format(
        path=f"DIRECTORY/{name}",
        rate=rate,
        input=check["input"],
        shape=[(1, rate)[i] if n < 0 else n for i, n in enumerate(check["shape"])],
        dtype=check["dtype"],
    )


def _training(card: dict) -> str:
    texts = [_trained(record) for record in card["training"]]
    if card["attribution"]:
        files = " and ".join(f"`{name}`" for name in card["attribution"])
        texts.append(f"The sounds that it was trained on, and their authors, are in {files}.")
    return "\n\n".join(texts) or "Not known."


def _trained(record: dict) -> str:
    text = f"`{record['file']}`, SHA-256 {record['sha256']}"
    if "name" in record:
        return text + (
            f": `{record['name']}`, which comes with sepssl. `docs/models.md` of the package says "
            "what it has heard, how it was made, how good it is, and what it cannot do."
        )
    if "config" not in record:
        return text + ": in no run's folder, so nothing more is known of its training."
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
            + (f"{check['milliseconds']:.2g} ms |" if "milliseconds" in check else "|")
        )
    rows += ["", "The clip timed is silence of one patch (of a separator: of one second)."]
    return "\n".join(rows)
