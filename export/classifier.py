"""An encoder and a classifier of its embeddings in one, as SavedModel or TF Lite."""

import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.evaluation.window_classifier import WindowClassifier
from sepssl.export.card import describe_classifier, write_card
from sepssl.export.clips import encoder_clips, expected_outputs
from sepssl.export.graphs import WAVEFORM, Graph, require_encoder, usable
from sepssl.export.origin import Origin
from sepssl.export.saved_model import save_graph, write_labels
from sepssl.export.tflite import convert_variant
from sepssl.files import atomic_folder
from sepssl.representation.encoder import Encoder

PRECISIONS = ("float32", "float16")


def save_classifier(
    encoder: Encoder,
    classifier: WindowClassifier,
    directory: str | os.PathLike,
    origin: Origin | None = None,
) -> dict:
    """Writes an encoder with a classifier as a SavedModel, as `save_encoder` does an encoder.

    `loaded(waveform)` and the signature `serving_default` give `scores` [batch, classes],
    probabilities, and `embedding` [batch, embedding_size]. A waveform counts as one window: of
    windows as the classifier was trained on, scores are those of sepssl-classify. The signature
    `classes` (no input) gives `classes`, their names; they are in `labels.txt` and `card.json` too.

    Args, Returns, Raises: as of `save_encoder`; InputError also if the classifier is of another
    embedding.
    """
    graph = classifier_graph(encoder, classifier)
    names = tf.constant(list(classifier.classes))
    graph.signatures["classes"] = tf.function(
        lambda: {"classes": tf.identity(names)}, input_signature=[], autograph=False
    )
    return save_graph(
        graph,
        classifier_model(encoder, classifier),
        directory,
        encoder_clips(encoder),
        describe_classifier(encoder, classifier),
        origin,
        labels=classifier.classes,
    )


def convert_classifier(
    encoder: Encoder,
    classifier: WindowClassifier,
    directory: str | os.PathLike,
    origin: Origin | None = None,
    precisions: Sequence[str] = ("float32",),
    accept_errors: bool = False,
) -> dict:
    """Writes an encoder with a classifier as TF Lite, as `convert_encoder` does an encoder.

    `classifier.tflite` and `classifier_float16.tflite` with the outputs of `save_classifier`;
    `labels.txt` holds the classes, one a line.

    Args, Returns, Raises: as of `convert_encoder`; `precisions` are float32 and float16.
    """
    graph = classifier_graph(encoder, classifier)
    clips = encoder_clips(encoder)
    expected = expected_outputs(classifier_model(encoder, classifier), clips, "scores")
    with atomic_folder(directory) as folder:
        parts = f".*{re.escape(encoder.backbone.name)}.*"
        checks = convert_variant(
            "classifier", graph, parts, clips, expected, folder, precisions, accept_errors
        )
        write_labels(folder, classifier.classes)
        about = describe_classifier(encoder, classifier)
        return write_card(folder, "tflite", about, checks, origin)


def classifier_graph(encoder: Encoder, classifier: WindowClassifier) -> Graph:
    """`serving_default` -> `scores` [batch, classes] and `embedding` [batch, size].

    Raises:
        InputError: if the classifier is of another embedding.
    """
    require_encoder(encoder)
    pool, size = _pool(classifier), len(classifier.weights)
    if pool not in ("window", "mean") or size != encoder.embedding_size:
        raise InputError(
            f"classifier: is of vectors of {size} values, pool={pool}; expected one of the "
            f"encoder's {encoder.embedding_size} values, pool=window or mean"
        )
    embed = _of_vectors(encoder, classifier)

    def call(waveform, training):
        waveform = usable(waveform)
        embedding = embed(waveform, training=training)
        length = tf.norm(embedding, axis=-1, keepdims=True)
        unit = embedding / tf.maximum(length, 1e-12)
        logits = tf.matmul(unit - classifier.center, classifier.weights) + classifier.biases
        return {"scores": tf.sigmoid(logits), "embedding": embedding}

    signature = tf.function(
        lambda waveform: call(waveform, False), input_signature=[WAVEFORM], autograph=False
    )
    return Graph(WAVEFORM, call, {"serving_default": signature}, (encoder,))


def _pool(classifier: WindowClassifier) -> str:
    """How the vectors that it learned from were pooled."""
    return (classifier.about.get("settings") or {}).get("pool", "window")


def _of_vectors(encoder: Encoder, classifier: WindowClassifier) -> Encoder:
    """The encoder as `sepssl-embed` uses it: windows are covered to their ends.

    Pooled, a recording's vector is the mean over windows, each of which has its own level.
    """
    own = encoder.of_windows if _pool(classifier) == "mean" else encoder.with_patches
    return own(cover_end=True)


def classifier_model(encoder: Encoder, classifier: WindowClassifier) -> Callable:
    """What the export should compute, the classifier's part without TensorFlow."""
    embed = _of_vectors(encoder, classifier)

    def model(waveform, training):
        embedding = np.asarray(embed(tf.convert_to_tensor(waveform)))
        unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        scores, _ = classifier.scores(unit, np.arange(len(unit)))
        return {"scores": scores, "embedding": embedding}

    return model
