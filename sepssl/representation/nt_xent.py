"""Similarity maximization: the normalised temperature-scaled cross entropy.

Reference: Chen et al., A Simple Framework for Contrastive Learning (SimCLR, 2020), eq. 1.
"""

from keras import ops

from sepssl.typing import Tensor


def l2_normalize(x: Tensor) -> Tensor:
    """Scales rows to length 1, in float32: [batch, dim] -> [batch, dim]; zeros stay zeros."""
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


def nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float | Tensor = 0.1,
    all_a: Tensor | None = None,
    all_b: Tensor | None = None,
    offset: int | Tensor = 0,
) -> Tensor:
    """Cross entropy of finding each projection's counterpart among all others.

    The average of both directions: a_i is to find b_i among all b and all a except itself, and vice
    versa. Computed in float32.

    Args:
        a, b: projections of two views of the same clips, [batch, dim]; need not be normalised.
        temperature: above 0; cosine similarities are divided by it.
        all_a, all_b: projections of the global batch [global batch, dim], from which negatives are
            taken, if it is larger than `a` and `b`.
        offset: row of `all_a` and `all_b` at which `a` and `b` start.

    Returns:
        [batch], in nats.

    Example:
        >>> a = np.eye(4)
        >>> nt_xent(a, a, temperature=0.1).shape
        (4,)
    """
    a, b = l2_normalize(a), l2_normalize(b)
    all_a = a if all_a is None else l2_normalize(all_a)
    all_b = b if all_b is None else l2_normalize(all_b)
    rows, columns = ops.shape(a)[0], ops.shape(all_a)[0]
    own = ops.expand_dims(ops.arange(rows) + offset, 1) == ops.expand_dims(ops.arange(columns), 0)
    positive = ops.sum(a * b, axis=-1) / temperature

    def direction(anchors, counterparts, others):
        across = ops.matmul(anchors, ops.transpose(counterparts)) / temperature
        within = ops.matmul(anchors, ops.transpose(others)) / temperature
        within = ops.where(own, -1e9, within)
        return ops.logsumexp(ops.concatenate([across, within], axis=1), axis=1) - positive

    return (direction(a, all_b, all_a) + direction(b, all_a, all_b)) / 2.0


def contrastive_accuracy(
    a: Tensor, b: Tensor, all_b: Tensor | None = None, offset: int | Tensor = 0
) -> Tensor:
    """Share of rows of `a` whose most similar row of `all_b` is their own counterpart, scalar."""
    a, b = l2_normalize(a), l2_normalize(b)
    all_b = b if all_b is None else l2_normalize(all_b)
    found = ops.argmax(ops.matmul(a, ops.transpose(all_b)), axis=-1)
    wanted = ops.cast(ops.arange(ops.shape(a)[0]) + offset, found.dtype)
    return ops.mean(ops.cast(found == wanted, "float32"))


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of normalised counterparts, 0 (aligned) to 4, scalar.

    Reference: Wang & Isola, Understanding Contrastive Representation Learning (2020).
    """
    return ops.mean(ops.sum(ops.square(l2_normalize(a) - l2_normalize(b)), axis=-1))


def uniformity(a: Tensor) -> Tensor:
    """log mean exp(-2 d^2) over pairs of normalised rows: 0 if all are equal, about -4 if spread.

    0 for a single row.

    Reference: Wang & Isola (2020), t = 2.
    """
    a = l2_normalize(a)
    count = ops.cast(ops.shape(a)[0], "float32")
    similarity = ops.matmul(a, ops.transpose(a))
    kernel = ops.exp(4.0 * similarity - 4.0)  # d^2 = 2 - 2 cos
    others = ops.sum(kernel) - ops.sum(ops.diagonal(kernel))
    mean = others / ops.maximum(count * (count - 1.0), 1.0)
    return ops.where(count > 1.0, ops.log(mean), 0.0)
