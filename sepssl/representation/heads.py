"""The projection head, on whose output similarity is measured."""

import keras

from sepssl.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class ProjectionHead(keras.layers.Layer):
    """Embedding to projection: dense, ReLU, dense. Discarded after training.

    Args:
        hidden_size: units of the hidden layer.
        projection_size: units of the output.
        dtype: policy of both layers; weights are float32 under the mixed ones.

    Shapes: [batch, embedding_size] -> [batch, projection_size].

    Example:
        >>> ProjectionHead(16, 4)(np.zeros([2, 8])).shape
        (2, 4)

    Reference: Chen et al., SimCLR (2020).
    """

    def __init__(self, hidden_size: int = 256, projection_size: int = 128, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.projection_size = projection_size
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(
            hidden_size, activation="relu", dtype=policy, name="hidden"
        )
        self.output_layer = keras.layers.Dense(projection_size, dtype=policy, name="output")

    def build(self, input_shape: Shape) -> None:
        self.hidden.build(input_shape)
        self.output_layer.build((*input_shape[:-1], self.hidden_size))
        self.built = True

    def call(self, embeddings: Tensor) -> Tensor:
        return self.output_layer(self.hidden(embeddings))

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.projection_size)

    def get_config(self) -> dict:
        return super().get_config() | {
            "hidden_size": self.hidden_size,
            "projection_size": self.projection_size,
        }
