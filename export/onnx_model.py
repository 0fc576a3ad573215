"""Models as ONNX files, for onnxruntime and whatever else reads ONNX."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sepssl.evaluation.window_classifier import WindowClassifier
from sepssl.export.card import (
    describe_classifier,
    describe_encoder,
    describe_separator,
    write_card,
)
from sepssl.export.classifier import classifier_graph, classifier_model
from sepssl.export.clips import (
    INPUTS,
    as_input,
    encoder_clips,
    expected_outputs,
    require_some,
    separator_clips,
)
from sepssl.export.errors import ExportError, require_onnx
from sepssl.export.graphs import (
    Graph,
    backbone_graph,
    encoder_graph,
    patch_graph,
    require_encoder,
    require_float32,
    separator_graph,
)
from sepssl.export.origin import Origin
from sepssl.export.processes import Check, check_in_fresh_process
from sepssl.export.saved_model import write_labels
from sepssl.files import atomic_folder, require_new_folder
from sepssl.representation.encoder import Encoder
from sepssl.separation.separator import Separator
from sepssl.version import __version__

LARGEST_FILE = 2**31 - 1  # bytes, of a protobuf


def save_onnx_encoder(
    encoder: Encoder,
    directory: str | os.PathLike,
    origin: Origin | None = None,
    inputs: Sequence[str] = ("waveform",),
) -> dict:
    """Writes an encoder as ONNX, with `card.json`, `README.md` and `manifest.sha256`.

    A file for every input: `encoder.onnx` for waveforms, `encoder_patch.onnx` and
    `encoder_log_mel.onnx`, each with the output `embedding` [batch, embedding_size]. Operators of
    opset 17 that every runtime has: the spectrogram's Fourier transform is a matrix product.

    Inputs:

    - `waveform`: `waveform`, float32 [batch, samples] in [-1, 1], any batch, any number of samples
      from 1 up. Samples that are NaN, infinite or beyond 1e10 count as zeros.
    - `patch`: the same of one patch, [1, patch_samples], for runtimes without dynamic shapes.
    - `log_mel`: `log_mel`, [batch, frames, bands], the backbone alone.

    A file's metadata has `sepssl`, `kind`, `sample_rate`, `license`, and `sha256` of the `.keras`
    file. Every file is compared with the encoder by onnxruntime on fixed clips, in a fresh process.

    Args:
        encoder: the encoder to write; not changed.
        directory: a folder that does not exist or is empty. It appears whole or not at all.
        origin: where the weights come from, for the card.
        inputs: some of `INPUTS`.

    Returns:
        The content of `card.json`.

    Raises:
        InputError: if onnx or onnxruntime is not installed, `encoder` is no encoder, computes in
            less than float32 or gives embeddings that are not finite, or `directory` holds
            something or cannot be written.
        ExportError: if an operation of the encoder has no translation, a file would be larger than
            2 GB, or it computes something else: a cosine below 0.9999, or more than 1e-3 of the
            largest value of a clip's embedding away.
    """
    require_onnx()
    require_encoder(encoder)
    require_some("input", inputs, INPUTS)
    require_new_folder(directory)
    about = describe_encoder(encoder)
    graphs = {
        "waveform": encoder_graph,
        "patch": patch_graph,
        "log_mel": lambda encoder: backbone_graph(encoder, batch=None),
    }
    models = {name: _model(graphs[name](encoder), about, origin) for name in inputs}
    clips = encoder_clips(encoder)
    expected = expected_outputs(encoder, clips, "embedding")
    files = [
        _File(
            "encoder.onnx" if name == "waveform" else f"encoder_{name}.onnx",
            model,
            *as_input(encoder, name, clips, expected),
        )
        for name, model in models.items()
    ]
    return _save(files, directory, about, origin)


def save_onnx_separator(
    separator: Separator, directory: str | os.PathLike, origin: Origin | None = None
) -> dict:
    """Writes a separator as `separator.onnx`, as `save_onnx_encoder` does an encoder.

    `waveform` [batch, samples] -> `sources` [batch, sources, samples], any batch, any number of
    samples from 1 up. Memory grows with the length: long recordings are better given in pieces.

    Args, Returns, Raises: as of `save_onnx_encoder`.
    """
    require_onnx()
    require_new_folder(directory)
    graph = separator_graph(separator)
    about = describe_separator(separator)
    model = _model(graph, about, origin)
    clips = separator_clips(separator)
    expected = expected_outputs(separator, clips, "sources")
    file = _File("separator.onnx", model, clips, expected, "one_sample")
    return _save([file], directory, about, origin)


def save_onnx_classifier(
    encoder: Encoder,
    classifier: WindowClassifier,
    directory: str | os.PathLike,
    origin: Origin | None = None,
) -> dict:
    """Writes an encoder with a classifier as `classifier.onnx`, as `save_onnx_encoder` an encoder.

    Outputs are `scores` [batch, classes] and `embedding`, those of `save_classifier`; the names of
    the classes are in `labels.txt`, one a line, and as JSON in the file's metadata, `classes`.

    Args, Returns, Raises: as of `save_onnx_encoder`; InputError also if the classifier is of
    another embedding.
    """
    require_onnx()
    require_new_folder(directory)
    graph = classifier_graph(encoder, classifier)
    about = describe_classifier(encoder, classifier)
    model = _model(graph, about, origin)
    clips = encoder_clips(encoder)
    expected = expected_outputs(classifier_model(encoder, classifier), clips, "scores")
    file = _File("classifier.onnx", model, clips, expected)
    return _save([file], directory, about, origin, labels=classifier.classes)


class _File(NamedTuple):
    """An ONNX file to write.

    Attributes:
        name: of the file.
        model: an onnx.ModelProto.
        clips: clip -> input.
        expected: clip -> output -> array.
        unstable: a clip of whose outputs only shapes and finiteness are checked.
    """

    name: str
    model: Any
    clips: dict[str, np.ndarray]
    expected: dict[str, dict[str, np.ndarray]]
    # Over two frames, a separator's norms magnify rounding: the last bit of the weights decides on
    # the second digit of its outputs, of the Keras model's as well.
    unstable: str = ""


def _save(
    files: Sequence[_File],
    directory: str | os.PathLike,
    about: dict,
    origin: Origin | None,
    labels: Sequence[str] = (),
) -> dict:
    with atomic_folder(directory) as folder:
        for file in files:
            (folder / file.name).write_bytes(file.model.SerializeToString())
        checks = [_check(file, folder, unstable=False) for file in files]
        checks += [_check(file, folder, unstable=True) for file in files if file.unstable]
        results = check_in_fresh_process(checks)[: len(files)]
        described = {
            file.name: _describe(file.model)
            | {"bytes": (folder / file.name).stat().st_size}
            | result["onnx"]
            for file, result in zip(files, results, strict=True)
        }
        if labels:
            write_labels(folder, labels)
        return write_card(folder, "onnx", about, described, origin)


def _check(file: _File, folder: pathlib.Path, unstable: bool) -> Check:
    clips = {name: x for name, x in file.clips.items() if (name == file.unstable) == unstable}
    return Check(
        file.name,
        clips,
        {name: file.expected[name] for name in clips},
        onnx=folder / file.name,
        input_name=file.model.graph.input[0].name,
        precision="any" if unstable else "float32",
    )


def _describe(model) -> dict:
    (described,) = model.graph.input
    # A size known at run time only has a name, and 0 as its value.
    sizes = [size.dim_value or -1 for size in described.type.tensor_type.shape.dim]
    return {
        "precision": "float32",
        "input": described.name,
        "shape": sizes,
        "dtype": "float32",
    }


def _model(graph: Graph, about: dict, origin: Origin | None):
    """A graph as an onnx.ModelProto that tells what it is."""
    import onnx

    from sepssl.export.onnx_graph import translate

    require_float32(graph, "ONNX as written here")
    names = ("batch", "samples")
    sizes = [names[i] if size is None else size for i, size in enumerate(graph.input.shape)]
    outputs = {name: [sizes[0], *shape[1:]] for name, shape in about["outputs"].items()}
    model = translate(graph.signatures["serving_default"], sizes, outputs, about["kind"])
    model.producer_name, model.producer_version = "sepssl", __version__
    rate = about["sample_rate"]
    (described,) = model.graph.input
    described.doc_string = (
        f"Mono, {rate} Hz, in [-1, 1], one sample or more; NaN and infinity count as zeros."
        if described.name == "waveform"
        else f"Log-mel spectrogram of a waveform at {rate} Hz, as the encoder computes it."
    )
    origin = origin or Origin()
    metadata = {
        "sepssl": __version__,
        "kind": about["kind"],
        "sample_rate": str(rate),
        "license": origin.license,
        "sha256": " ".join(record["sha256"] for record in origin.models),
    }
    if "classes" in about:
        metadata["classes"] = json.dumps(about["classes"], ensure_ascii=False)
    onnx.helper.set_model_props(model, metadata)
    if model.ByteSize() > LARGEST_FILE:
        raise ExportError(
            f"{about['kind']}: would take {model.ByteSize() / 1e9:.1f} GB; expected at most 2 GB, "
            "all that an ONNX file holds"
        )
    return model
