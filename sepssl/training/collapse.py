"""Detects an encoder that collapses: all embeddings equal, or spread along one line."""

from keras import ops

from sepssl.typing import Tensor

MIN_SPREAD = 0.01  # our choice
MIN_RANK = 1.5  # our choice
MAX_UNIFORMITY = -0.01  # our choice


def spread_and_rank(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """How much embeddings differ, and in how many directions.

    Args:
        embeddings: [batch, dim].

    Returns:
        Two scalars. Spread: the variance summed over dimensions, over the mean squared length; 0 if
        all are equal, 1 if they are centred. Rank: the participation ratio `tr(C)^2 / tr(C^2)` of
        the covariance C, 1 if all are on one line, at most `batch - 1`; 1 if the spread is 0.

    Reference: participation ratio, as effective rank; our choice for its cost, a product of
    matrices instead of a decomposition.
    """
    x = ops.cast(embeddings, "float32")
    length = ops.mean(ops.sum(ops.square(x), axis=-1))
    centred = x - ops.mean(x, axis=0)
    gram = ops.matmul(centred, ops.transpose(centred))
    count = ops.cast(ops.shape(x)[0], "float32")
    trace = ops.sum(ops.diagonal(gram))
    spread = trace / count / ops.maximum(length, 1e-30)
    squares = ops.sum(ops.square(gram))
    rank = ops.where(squares > 0.0, ops.square(trace) / ops.maximum(squares, 1e-30), 1.0)
    return spread, rank


def collapse_warning(metrics: dict[str, float]) -> str | None:
    """A warning if "embedding_spread" or "embedding_rank" shows a collapse, else None."""
    spread, rank = metrics["embedding_spread"], metrics["embedding_rank"]
    if spread < MIN_SPREAD:
        found = f"embedding_spread={spread:.2g} (expected above {MIN_SPREAD})"
    elif rank < MIN_RANK:
        found = f"embedding_rank={rank:.2g} (expected above {MIN_RANK})"
    else:
        return None
    return (
        f"the encoder is collapsing: {found}. Embeddings of different clips hardly differ; a lower "
        "train.learning_rate, a longer warm-up or other objective weights may help"
    )


def projection_warning(metrics: dict[str, float]) -> str | None:
    """A warning if "uniformity" and "alignment" show collapsed projections, else None."""
    # Vectors of 0 count as spread, but coincide exactly.
    if metrics["uniformity"] <= MAX_UNIFORMITY and metrics["alignment"] > 0.0:
        return None
    return (
        f"similarity maximization is not learning: uniformity={metrics['uniformity']:.2g}, "
        f"alignment={metrics['alignment']:.2g} (expected below {MAX_UNIFORMITY} and above 0). "
        "Projections of different clips hardly differ; a lower train.learning_rate or a longer "
        "warm-up may help"
    )
