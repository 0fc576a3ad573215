"""Coincidence prediction: do two embeddings come from one clip?

Reference: the task of Jansen et al., Coincidence, Categorization, and Consolidation (2020); the
network and the weighting of pairs are our choice.
"""

import keras
from keras import ops

from sepssl.representation.pair_logits import pair_logits
from sepssl.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class CoincidenceHead(keras.layers.Layer):
    """A two-layer perceptron on every pair of embeddings.

    The first layer is split, `W [z; z'] = W1 z + W2 z'`, so that no pair is ever concatenated. In
    training, if the shapes are known, the hidden layer of all pairs is not stored either, on
    Keras's TensorFlow backend; see `pair_logits`. Everything after the split layer is float32 under
    every dtype policy.

    Args:
        hidden_size: units of the hidden layer.
        dtype: policy of the first layer; weights are float32 under the mixed ones.

    Shapes: [rows, dim], [columns, dim] -> logits [rows, columns], float32.

    Example:
        >>> a, b = np.random.default_rng(0).normal(size=(2, 6, 8))
        >>> logits = CoincidenceHead(16)(a, b)
        >>> logits.shape, coincidence_loss(logits).shape
        ((6, 6), ())
    """

    def __init__(self, hidden_size: int = 128, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        policy = self.dtype_policy
        self.left = keras.layers.Dense(hidden_size, dtype=policy, name="left")
        self.right = keras.layers.Dense(hidden_size, use_bias=False, dtype=policy, name="right")
        self.logit = keras.layers.Dense(1, dtype=policy, name="logit")

    def build(self, left_shape: Shape, right_shape: Shape | None = None) -> None:
        self.left.build(left_shape)
        self.right.build(left_shape)
        self.logit.build((None, None, self.hidden_size))
        self.built = True

    def call(self, left: Tensor, right: Tensor, training: bool = False) -> Tensor:
        left = ops.cast(self.left(left), "float32")
        right = ops.cast(self.right(right), "float32")
        weights = ops.cast(self.logit.kernel, "float32")[:, 0]
        of_tensorflow = keras.config.backend() == "tensorflow"
        if training and of_tensorflow and None not in (left.shape[0], right.shape[0]):
            logits = pair_logits(left, right, weights)
        else:
            hidden = ops.relu(ops.expand_dims(left, 1) + ops.expand_dims(right, 0))
            logits = ops.matmul(hidden, weights)
        return logits + ops.cast(self.logit.bias, "float32")

    def compute_output_shape(self, left_shape: Shape, right_shape: Shape) -> tuple[int | None, ...]:
        return (left_shape[0], right_shape[0])

    def get_config(self) -> dict:
        return super().get_config() | {"hidden_size": self.hidden_size}


def coincidence_loss(logits: Tensor, offset: int | Tensor = 0) -> Tensor:
    """Binary cross entropy over all pairs, with equal total weight of coinciding and other pairs.

    Args:
        logits: [rows, columns]; row i and column `offset + i` come from one clip, others do not.
        offset: see `logits`; 0 unless the rows are a slice of the global batch.

    Returns:
        Scalar: mean of -log p over coinciding pairs plus mean of -log(1 - p) over the others (0 if
        there are none).
    """
    logits = ops.cast(logits, "float32")
    rows, columns = ops.shape(logits)
    own = ops.expand_dims(ops.arange(rows) + offset, 1) == ops.expand_dims(ops.arange(columns), 0)
    own = ops.cast(own, "float32")
    positive = ops.sum(own * ops.softplus(-logits)) / ops.cast(rows, "float32")
    others = ops.cast(ops.maximum(rows * (columns - 1), 1), "float32")
    return positive + ops.sum((1.0 - own) * ops.softplus(logits)) / others


def coincidence_auc(logits: Tensor, offset: int | Tensor = 0) -> Tensor:
    """Share of a row's other pairs that score below its coinciding pair, mean over rows, scalar.

    The area under the ROC curve of each row: 0.5 is chance, 1 is perfect. Equal logits count half.

    Args:
        logits, offset: as in `coincidence_loss`.
    """
    logits = ops.cast(logits, "float32")
    rows, columns = ops.shape(logits)
    own = ops.expand_dims(ops.arange(rows) + offset, 1) == ops.expand_dims(ops.arange(columns), 0)
    positive = ops.sum(ops.where(own, logits, 0.0), axis=1, keepdims=True)
    above = ops.cast(positive > logits, "float32") + 0.5 * ops.cast(positive == logits, "float32")
    others = ops.cast(ops.maximum(rows * (columns - 1), 1), "float32")
    return ops.sum(ops.where(own, 0.0, above)) / others
