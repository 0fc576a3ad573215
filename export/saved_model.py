"""Models as SavedModels that every TensorFlow loader understands."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from sepssl.export.card import (
    describe_encoder,
    describe_scene,
    describe_separator,
    write_card,
)
from sepssl.export.clips import encoder_clips, expected_outputs, separator_clips
from sepssl.export.graphs import (
    Graph,
    encoder_graph,
    scene_graph,
    separator_graph,
    windows_signature,
    write_saved_model,
)
from sepssl.export.origin import Origin
from sepssl.export.processes import Check, check_in_fresh_process
from sepssl.files import atomic_folder
from sepssl.representation.encoder import Encoder
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation.separator import Separator


def save_encoder(
    encoder: Encoder, directory: str | os.PathLike, origin: Origin | None = None
) -> dict:
    """Writes an encoder as a SavedModel, with `card.json`, `README.md` and `manifest.sha256`.

    `loaded = tf.saved_model.load(directory)` needs neither sepssl nor Keras and has:

    - `loaded(waveform)`, `loaded(waveform, training=True)`: float32 [batch, samples] in [-1, 1],
      any batch, any number of samples from 1 up -> [batch, embedding_size]. With training=True,
      batch norm uses the statistics of the batch and updates its moving ones.
    - signature `serving_default`: `waveform` -> `embedding` [batch, embedding_size].
    - signature `patches`: `waveform` -> `embedding` [batch, patches, embedding_size].
    - signature `windows`: `waveform` -> `embeddings` [batch, windows, embedding_size] and `starts`,
      int64 [windows], in samples: as `sepssl.embed_windows` has them.
    - `variables`, `trainable_variables`; `regularization_losses`, functions without arguments.

    Samples that are NaN, infinite or beyond 1e10 count as zeros, so the embedding is always
    finite (our choice: one damaged sample costs one sample, not the clip).

    What was written is loaded in a fresh process and compared with the encoder on fixed clips.

    Args:
        encoder: the encoder to write; not changed.
        directory: a folder that does not exist or is empty. It appears whole or not at all.
        origin: where the weights come from, for the card.

    Returns:
        The content of `card.json`.

    Raises:
        InputError: if `encoder` is no encoder or gives embeddings that are not finite, or
            `directory` holds something or cannot be written.
        ExportError: if what was written computes something else: more than 1e-5 of the largest
            value of a clip's embedding away.
    """
    graph = encoder_graph(encoder)
    windows = windows_signature(encoder, graph.signatures["patches"])
    graph = dataclasses.replace(graph, signatures=graph.signatures | {"windows": windows})

    embedder = WindowEmbedder(encoder)

    def model(waveform, training):
        return {"embedding": encoder(waveform, training=training)} | _windows(embedder, waveform)

    clips = encoder_clips(encoder)
    return save_graph(graph, model, directory, clips, describe_encoder(encoder), origin)


def _windows(embedder: WindowEmbedder, waveform: np.ndarray) -> dict[str, np.ndarray]:
    """What `windows` should give, under the names that `check` has for it."""
    parts = zip(*embedder([waveform]), strict=True)
    starts, _, embeddings, _ = (np.concatenate(part) for part in parts)
    return {"windows.embeddings": embeddings.swapaxes(0, 1), "windows.starts": starts}


def save_separator(
    separator: Separator, directory: str | os.PathLike, origin: Origin | None = None
) -> dict:
    """Writes a separator as a SavedModel, as `save_encoder` does an encoder.

    `loaded(waveform)` -> [batch, sources, samples]; signature `serving_default`: `waveform` ->
    `sources`. Memory grows with the length, by the separator's frames times its channels: long
    recordings are better given in pieces. `training` is taken and makes no difference.

    Args, Returns, Raises: as of `save_encoder`.
    """
    graph = separator_graph(separator)
    clips = separator_clips(separator)
    return save_graph(graph, separator, directory, clips, describe_separator(separator), origin)


def save_scene(
    separator: Separator,
    encoder: Encoder,
    directory: str | os.PathLike,
    origin: Origin | None = None,
) -> dict:
    """Writes a separator and an encoder as one SavedModel, as `save_encoder` does an encoder.

    `loaded(waveform)` and the signature `scene`, which `serving_default` is as well, give
    `embedding` [batch, embedding_size] of the mixture, `channel_embeddings` [batch, sources,
    embedding_size], and `channel_energies` [batch, sources], sums of squares over the samples. The
    signature `windows` gives `embeddings` [batch, windows, 1 + sources, embedding_size] of the
    mixture and its channels, their `starts`, and `sources` [batch, sources, samples].
    `sepssl_hoplite.py` beside it makes an `EmbeddingModel` of perch-hoplite of it.

    Args, Returns, Raises: as of `save_encoder`; InputError also if the two are for different
    sample rates.
    """
    graph = scene_graph(separator, encoder)
    embedder = WindowEmbedder(encoder)

    def scene(waveform, training):
        channels = np.asarray(separator(waveform, training=training))
        embeddings = [encoder(channels[:, i], training=training) for i in range(channels.shape[1])]
        sounds = np.concatenate([waveform[:, None], channels], axis=1)
        windows = _windows(embedder, sounds.reshape(-1, sounds.shape[-1]))
        of_windows = windows["windows.embeddings"]
        of_windows = of_windows.reshape(*sounds.shape[:2], *of_windows.shape[1:])
        return windows | {
            "embedding": encoder(waveform, training=training),
            "channel_embeddings": np.stack(embeddings, axis=1),
            "channel_energies": np.sum(channels**2, axis=-1),
            "windows.embeddings": of_windows.swapaxes(1, 2),
            "windows.sources": channels,
        }

    clips = encoder_clips(encoder)
    about = describe_scene(separator, encoder)
    modules = ("sepssl_hoplite.py",)
    return save_graph(graph, scene, directory, clips, about, origin, modules)


def save_graph(
    graph: Graph,
    model: Callable,
    directory: str | os.PathLike,
    clips: dict[str, np.ndarray],
    about: dict,
    origin: Origin | None,
    modules: Sequence[str] = (),
    file_format: str = "saved_model",
    labels: Sequence[str] = (),
) -> dict:
    """Writes a graph as a SavedModel with its card, if it computes what is expected of it.

    Args:
        graph: what to write.
        model: (waveform, training) -> what it should compute.
        directory: a folder that does not exist or is empty.
        clips: name -> waveform.
        about, origin: for the card, as `write_card` takes them.
        modules: names of Python modules of this package to put beside it.
        file_format: for the card.
        labels: names of classes to put beside it.

    Returns:
        The content of `card.json`.

    Raises:
        InputError, ExportError: as `save_encoder`.
    """
    with atomic_folder(directory) as folder:
        expected = expected_outputs(model, clips, next(iter(about["outputs"])))
        write_saved_model(graph, folder)
        (result,) = check_in_fresh_process([Check(os.fspath(directory), clips, expected, folder)])
        for module in modules:
            shutil.copy(pathlib.Path(__file__).with_name(module), folder)
        if labels:
            write_labels(folder, labels)
        return write_card(folder, file_format, about, result["saved_model"], origin)


def write_labels(folder: pathlib.Path, labels: Sequence[str]) -> None:
    """Writes `labels.txt`: the names of the classes, one a line, in the order of the output."""
    text = "".join(f"{' '.join(label.split())}\n" for label in labels)
    (folder / "labels.txt").write_text(text, encoding="utf-8")
