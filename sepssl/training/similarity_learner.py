"""Training steps of an encoder: similarity maximization and coincidence prediction, jointly."""

import math
from typing import Any

import keras
from keras import ops

from sepssl.distribution import gather, replica_id
from sepssl.representation.coincidence import CoincidenceHead, coincidence_auc, coincidence_loss
from sepssl.representation.encoder import Encoder
from sepssl.representation.heads import ProjectionHead
from sepssl.representation.nt_xent import alignment, contrastive_accuracy, nt_xent, uniformity
from sepssl.training.collapse import spread_and_rank
from sepssl.training.encoder_learner import EncoderLearner
from sepssl.typing import Tensor
from sepssl.views.channels import PAIRINGS, pairing_shares

MIN_TEMPERATURE = 0.01


@keras.saving.register_keras_serializable(package="sepssl")
class SimilarityLearner(EncoderLearner):
    """Trains an encoder to associate two views of a clip.

    Args:
        encoder: `Encoder`.
        front_end: `FrontEnd`, or any other layer that makes two views from a batch; None if a
            batch is a pair of views.
        similarity_weight, coincidence_weight: of the two objectives in the loss.
        temperature: of NT-Xent; the initial value if it is learned.
        learn_temperature: whether its logarithm is trained too, as in Radford et al., CLIP (2021);
            it never falls below 0.01.
        projection_size: of the similarity head.
        hidden_size: of both heads.
        clip_norm: largest global gradient norm, 0 for no clipping.
        kwargs: `Learner`'s other arguments.

    A batch is what the front end takes, or, without one, a pair of views: log-mel patches [batch,
    frames, bands] or waveforms [batch, samples]. Negatives come from the global batch; with
    `gradient_accumulation_steps`, from the same part of it on every replica, and the batch norm of
    backbone and heads sees that part: the step is the mean of those of small batches, not that of a
    large one.

    Example:
        >>> learner = SimilarityLearner(Encoder(), FrontEnd(LogMel(), mixture_mixture=1.0))
        >>> learner.compile(keras.optimizers.Adam(1e-3))
        >>> learner.fit(dataset, epochs=2, validation_data=held_out)
        >>> learner.encoder.save("encoder.keras")

    Reference: Fonseca et al. (2021), joint objective; the weights are our choice.
    """

    metric_names = (
        "similarity_loss",
        "coincidence_loss",
        "contrastive_accuracy",
        "coincidence_auc",
        "temperature",
        "alignment",
        "uniformity",
        "embedding_std",
        "embedding_spread",
        "embedding_rank",
        *(f"{pairing}_share" for pairing in PAIRINGS),
        "no_channel_share",
    )
    shown_metrics = ("loss", "similarity_loss", "coincidence_loss", "contrastive_accuracy")

    def __init__(
        self,
        encoder: Encoder,
        front_end: keras.layers.Layer | None = None,
        similarity_weight: float = 1.0,
        coincidence_weight: float = 1.0,
        temperature: float = 0.1,
        learn_temperature: bool = False,
        projection_size: int = 128,
        hidden_size: int = 256,
        clip_norm: float = 0.0,
        **kwargs,
    ):
        super().__init__(encoder, front_end, clip_norm, **kwargs)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: expected above 0")
        if not similarity_weight + coincidence_weight > 0:
            raise ValueError(
                f"similarity_weight={similarity_weight}, coincidence_weight={coincidence_weight}: "
                "expected one of them above 0"
            )
        self.similarity_weight = similarity_weight
        self.coincidence_weight = coincidence_weight
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        policy = self.dtype_policy
        self.projection = ProjectionHead(
            hidden_size, projection_size, dtype=policy, name="projection"
        )
        self.coincidence = CoincidenceHead(hidden_size, dtype=policy, name="coincidence")
        if learn_temperature:
            self.log_temperature = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(math.log(temperature)),
                dtype="float32",
                name="log_temperature",
            )

    def build(self, input_shape=None):
        super().build(input_shape)
        shape = (None, self.encoder.embedding_size)
        if not self.projection.built:
            self.projection.build(shape)
        if not self.coincidence.built:
            self.coincidence.build(shape, shape)

    def loss_and_metrics(self, data: Any, training: bool) -> tuple[Tensor, dict]:
        a, b, shown = self.views(data)
        batch = ops.shape(a)[0]
        embeddings = self.embed_views(a, b, training)
        projections = ops.cast(self.projection(embeddings), "float32")
        offset = replica_id() * batch
        za, zb = projections[:batch], projections[batch:]
        all_a, all_b = gather(za), gather(zb)
        temperature = self.current_temperature()
        similarity = ops.mean(nt_xent(za, zb, temperature, all_a, all_b, offset))
        # In evaluation too: the flag only avoids storing the hidden layer of all pairs.
        logits = self.coincidence(embeddings[:batch], gather(embeddings[batch:]), training=True)
        coincidence = coincidence_loss(logits, offset)
        loss = self.similarity_weight * similarity + self.coincidence_weight * coincidence
        all_embeddings = gather(embeddings)
        spread, rank = spread_and_rank(all_embeddings)
        metrics = {
            "similarity_loss": similarity,
            "coincidence_loss": coincidence,
            "contrastive_accuracy": contrastive_accuracy(za, zb, all_b, offset),
            "coincidence_auc": coincidence_auc(logits, offset),
            "temperature": temperature,
            "alignment": alignment(za, zb),
            "uniformity": uniformity(all_a),
            "embedding_std": ops.mean(ops.std(all_embeddings, axis=0)),
            "embedding_spread": spread,
            "embedding_rank": rank,
        }
        return loss, metrics | ({} if shown is None else pairing_shares(shown))

    def current_temperature(self) -> Tensor:
        """Temperature of NT-Xent, scalar; never below `MIN_TEMPERATURE` if it is learned."""
        if not self.learn_temperature:
            return ops.convert_to_tensor(self.temperature, "float32")
        log = ops.convert_to_tensor(self.log_temperature)
        # The gradient passes through the floor, so that the temperature can rise again.
        floored = ops.maximum(log, math.log(MIN_TEMPERATURE))
        return ops.exp(log + ops.stop_gradient(floored - log))

    def get_config(self):
        return super().get_config() | {
            "similarity_weight": self.similarity_weight,
            "coincidence_weight": self.coincidence_weight,
            "temperature": self.temperature,
            "learn_temperature": self.learn_temperature,
            "projection_size": self.projection_size,
            "hidden_size": self.hidden_size,
        }
