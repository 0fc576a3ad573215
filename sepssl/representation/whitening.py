"""A linear map of embeddings, after which views of one clip differ more alike in all directions."""

import keras
import numpy as np
from keras import ops

from sepssl.representation.encoder import Encoder
from sepssl.typing import Shape, Tensor

SMOOTHING = 0.3  # share of the mean variance that every direction has beside its own; our choice


@keras.saving.register_keras_serializable(package="sepssl")
class WhitenedBackbone(keras.layers.Layer):
    """A backbone, and an affine map of its embeddings, which is the identity until it is set.

    Args:
        backbone: layer or model that maps log-mel patches [batch, frames, bands] to embeddings
            [batch, embedding_size]; see `Encoder`.
        embedding_size: of the backbone.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size], float32.

    Example:
        >>> WhitenedBackbone(SmallBackbone(8, width=2), 8)(np.zeros([1, 96, 64])).shape
        (1, 8)
    """

    def __init__(self, backbone: keras.layers.Layer, embedding_size: int, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.embedding_size = embedding_size
        self.linear = keras.layers.Dense(
            embedding_size, kernel_initializer="zeros", dtype="float32", name="linear"
        )

    def build(self, input_shape: Shape) -> None:
        if not self.backbone.built:
            self.backbone.build(input_shape)
        # The diagonal, apart: with it in one kernel, little of the rest would survive 8 bits.
        self.scale = self.add_weight(
            shape=(self.embedding_size,), initializer="ones", dtype="float32", name="scale"
        )
        self.linear.build((None, self.embedding_size))
        self.built = True

    def call(self, patches: Tensor, training: bool = False) -> Tensor:
        embeddings = ops.cast(self.backbone(patches, training=training), "float32")
        return self.scale * embeddings + self.linear(embeddings)

    def set_map(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Sets the map to x -> x @ kernel + bias, once the layer is built."""
        diagonal = np.diagonal(kernel)
        self.scale.assign(diagonal)
        self.linear.set_weights([kernel - np.diag(diagonal), bias])

    def get_map(self) -> tuple[np.ndarray, np.ndarray]:
        """kernel [size, size] and bias [size], float32, of `set_map`."""
        kernel, bias = self.linear.get_weights()
        return kernel + np.diag(np.asarray(self.scale)), bias

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "embedding_size": self.embedding_size,
        }

    @classmethod
    def from_config(cls, config: dict) -> "WhitenedBackbone":
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**(config | {"backbone": backbone}))


def whitened(encoder: Encoder, a: np.ndarray, b: np.ndarray) -> Encoder:
    """An encoder whose embeddings are those of another, mapped by the whitening of pairs of them.

    Embeddings of a network that ends with a ReLU have no negative values: all point into about one
    direction, and into some directions views of one clip differ much more than into others. Both
    are of no interest to a cosine, by which search compares. The map subtracts the mean, and scales
    the directions by how much the pairs differ in them. What linear classifiers can tell is the
    same.

    Args:
        encoder: a built one. It shares its network with the result; one that is whitened already
            has its map replaced by the product of both in the result alone.
        a, b: float [pairs, embedding_size], its embeddings of two views of each of some clips, as
            those that it was trained to associate; some times as many as `embedding_size`.

    Raises:
        ValueError: if there are no pairs, their shapes do not fit, or they do not differ.

    Reference: Hatch et al., Within-Class Covariance Normalization (Interspeech 2006), with every
    pair as a class; the smoothing is our choice.
    """
    kernel, bias = pair_whitening(a, b)
    if len(kernel) != encoder.embedding_size:
        raise ValueError(
            f"pairs of {len(kernel)} values: expected the encoder's {encoder.embedding_size}"
        )
    network = encoder.backbone
    if isinstance(network, WhitenedBackbone):
        before, shift = (np.float64(weight) for weight in network.get_map())
        kernel, bias = before @ kernel, shift @ kernel + bias
        network = network.backbone
    result = Encoder(WhitenedBackbone(network, len(kernel)), encoder.log_mel)
    result.build()
    result.backbone.set_map(kernel, bias)
    return result


def pair_whitening(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map x -> x @ kernel + bias after which pairs differ by variances of at most 1.

    Args:
        a, b: float [pairs, size].

    Returns:
        kernel: float64 [size, size], symmetric: the inverse square root of the covariance of the
            differences, smoothed by `SMOOTHING`.
        bias: float64 [size]; the mean over `a` and `b` is mapped to 0.

    Raises:
        ValueError: if there are no pairs, shapes differ, values are not finite, or no pair differs.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"pairs {list(a.shape)} and {list(b.shape)}: expected [pairs, size] twice")
    within = (a - b).T @ (a - b) / len(a)
    smoothing = SMOOTHING * np.trace(within) / len(within)
    if not 0 < smoothing < np.inf:
        raise ValueError("pairs do not differ, or not by finite numbers; expected pairs of views")
    variances, directions = np.linalg.eigh(within)
    # Turned back to the axes of the embeddings: classifiers of their maxima and deviations over a
    # recording know much less by those of the principal axes.
    kernel = (directions / np.sqrt(np.maximum(variances, 0) + smoothing)) @ directions.T
    mean = (a.mean(axis=0) + b.mean(axis=0)) / 2
    return kernel, -mean @ kernel
