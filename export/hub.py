"""A model in all formats, in a folder that can be a repository on Hugging Face, or Kaggle's."""

import json
import os
import pathlib
import shutil
import types
import zipfile
from collections.abc import Callable, Mapping

import keras

from sepssl.errors import InputError
from sepssl.evaluation.window_classifier import load_classifier
from sepssl.export.card import (
    describe_classifier,
    describe_encoder,
    describe_separator,
    write_card,
)
from sepssl.export.classifier import convert_classifier, save_classifier
from sepssl.export.errors import require_onnx
from sepssl.export.onnx_model import (
    save_onnx_classifier,
    save_onnx_encoder,
    save_onnx_separator,
)
from sepssl.export.origin import origin_of
from sepssl.export.saved_model import save_encoder, save_separator
from sepssl.export.tflite import convert_encoder, convert_separator
from sepssl.files import atomic_folder, require_new_folder
from sepssl.representation.encoder import load_encoder
from sepssl.separation.separator import load_separator
from sepssl.serialization import CONFIG
from sepssl.weights import MODEL_FILE, model_file

CLASSIFIER_FILE = "classifier.npz"


def save_hub_encoder(
    file: str | os.PathLike, directory: str | os.PathLike, license: str = ""
) -> dict:
    """Writes an encoder's file, and all that is made from it, into a folder for a hub.

    - `model.keras`: the file itself, to the byte.
    - `saved_model`, `tflite`, `onnx`: what `save_encoder`, `convert_encoder` and
      `save_onnx_encoder` write, in float32, of waveforms. Each has a card of its own, and can be
      a variation on Kaggle Models.
    - `README.md`: a model card with the metadata that Hugging Face reads.
    - `config.json`: the card for programs, with the network's configuration.
    - `model-metadata.json` and, in each folder, `model-instance-metadata.json`, which Kaggle's
      commands read.
    - `manifest.sha256`, and an `ATTRIBUTION.csv` from beside the file.

    Args:
        file: of the encoder, or how `sepssl.load_encoder` finds it otherwise.
        directory: a folder that does not exist or is empty. It appears whole or not at all.
        license: of the weights, best as an SPDX identifier, such as CC-BY-4.0; "" if not stated.

    Returns:
        The content of `config.json`.

    Raises:
        InputError: if the file cannot be loaded, onnx or onnxruntime is not installed, the encoder
            computes in less than float32 or gives embeddings that are not finite, or `directory`
            holds something or cannot be written.
        ExportError: if a format cannot be written, or computes something else than the encoder.
    """
    require_onnx()
    file = model_file(file, "Encoder")
    encoder = load_encoder(file)
    writers = {"saved_model": save_encoder, "tflite": convert_encoder, "onnx": save_onnx_encoder}
    return _save(file, encoder, describe_encoder(encoder), writers, directory, license)


def save_hub_separator(
    file: str | os.PathLike, directory: str | os.PathLike, license: str = ""
) -> dict:
    """Writes a separator's file, and all that is made from it, as `save_hub_encoder` does.

    Args, Returns, Raises: as of `save_hub_encoder`.
    """
    require_onnx()
    file = model_file(file, "Separator")
    separator = load_separator(file)
    writers = {
        "saved_model": save_separator,
        "tflite": convert_separator,
        "onnx": save_onnx_separator,
    }
    return _save(file, separator, describe_separator(separator), writers, directory, license)


def save_hub_classifier(
    file: str | os.PathLike,
    classifier_file: str | os.PathLike,
    directory: str | os.PathLike,
    license: str = "",
) -> dict:
    """Writes an encoder's file and a classifier of its embeddings, as `save_hub_encoder` does.

    `classifier.npz` is the classifier's file, to the byte; the formats are those of
    `save_classifier`, `convert_classifier` and `save_onnx_classifier`.

    Args:
        file: of the encoder, or how `sepssl.load_encoder` finds it otherwise.
        classifier_file: as sepssl-classify writes it.
        directory, license: as of `save_hub_encoder`.

    Returns, Raises: as of `save_hub_encoder`; InputError also if the classifier is of another
        embedding.
    """
    require_onnx()
    file = model_file(file, "Encoder")
    encoder, classifier = load_encoder(file), load_classifier(classifier_file)
    saves = {
        "saved_model": save_classifier,
        "tflite": convert_classifier,
        "onnx": save_onnx_classifier,
    }
    writers = {
        name: lambda encoder, folder, origin, save=save: save(encoder, classifier, folder, origin)
        for name, save in saves.items()
    }
    about = describe_classifier(encoder, classifier)
    files = {CLASSIFIER_FILE: pathlib.Path(classifier_file)}
    return _save(file, encoder, about, writers, directory, license, files)


def _save(
    file: pathlib.Path,
    model: keras.Model,
    about: dict,
    writers: Mapping[str, Callable[..., dict]],
    directory: str | os.PathLike,
    license: str,
    others: Mapping[str, pathlib.Path] = types.MappingProxyType({}),
) -> dict:
    """Writes the folder; `others` are files that are copied into it, by name."""
    require_new_folder(directory)
    origin = origin_of(file, license=license)
    about = about | {
        "file": MODEL_FILE,
        "sha256": origin.models[0]["sha256"],
        "network": _network(file),
    }
    with atomic_folder(directory) as folder:
        for name, copied in {MODEL_FILE: file, **others}.items():
            shutil.copyfile(copied, folder / name)
        checks: dict[str, dict] = {}
        for name, write in writers.items():
            try:
                card = write(model, folder / name, origin)
            except InputError as error:  # which may name a folder that is about to go
                text = str(error).replace(str(folder), os.fspath(directory))
                raise type(error)(text) from error
            checks |= _checks(folder, name, card["checks"])
        return write_card(folder, "hub", about, checks, origin)


def _network(file: pathlib.Path) -> dict:
    """The configuration in a `.keras` file, without that of its training."""
    with zipfile.ZipFile(file) as archive:
        config = json.loads(archive.read(CONFIG))
    return {key: value for key, value in config.items() if key != "compile_config"}


def _checks(folder: pathlib.Path, name: str, checks: dict) -> dict[str, dict]:
    """The checks of a format by the path of a file in the folder; a SavedModel counts as one."""
    if name != "saved_model":
        return {f"{name}/{file}": check for file, check in checks.items()}
    size = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
    about = {"precision": "float32", "input": "waveform", "shape": [-1, -1], "dtype": "float32"}
    return {name: about | {"bytes": size} | checks}
