"""Training of an encoder: similarity maximization and coincidence prediction, jointly."""

import math

import keras
import tensorflow as tf
from keras import ops

from sepssl.distribution import gather, global_mean_step, mean_over_replicas, replica_id
from sepssl.representation.coincidence import CoincidenceHead, coincidence_auc, coincidence_loss
from sepssl.representation.heads import ProjectionHead
from sepssl.representation.nt_xent import alignment, contrastive_accuracy, nt_xent, uniformity
from sepssl.training.collapse import spread_and_rank
from sepssl.training.encoder_learner import EncoderLearner
from sepssl.views.channels import pairing_shares

MIN_TEMPERATURE = 0.01


@keras.saving.register_keras_serializable(package="sepssl")
class SimilarityLearner(EncoderLearner):
    """Trains an encoder to associate two views of a clip.

    Args:
        encoder: `Encoder`.
        front_end: `FrontEnd`, which makes the views.
        similarity_weight, coincidence_weight: of the two objectives in the loss.
        temperature: of NT-Xent, where training starts if it is learned.
        learn_temperature: whether its logarithm is trained with the rest, as in Radford et al.,
            CLIP (2021); it never falls below 0.01.
        projection_size: of the similarity head.
        hidden_size: of both heads.
        clip_norm: largest global gradient norm, 0 for no clipping.

    `train_step` takes the dict that `FrontEnd` takes; it works under `model.fit` and under
    `strategy.run`. Negatives come from the global batch.

    Reference: Fonseca et al. (2021), joint objective; the weights are our choice.
    """

    shown_metrics = ("loss", "similarity_loss", "coincidence_loss", "contrastive_accuracy")

    def __init__(
        self,
        encoder,
        front_end,
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
        self.projection = ProjectionHead(hidden_size, projection_size, name="projection")
        self.coincidence = CoincidenceHead(hidden_size, name="coincidence")

    def build(self, input_shape=None):
        if not self.encoder.built:
            self.encoder.build((None, None))
        shape = (None, self.encoder.embedding_size)
        self.projection.build(shape)
        self.coincidence.build(shape, shape)
        if self.learn_temperature:
            start = keras.initializers.Constant(math.log(self.temperature))
            self.log_temperature = self.add_weight(
                shape=(), initializer=start, dtype="float32", name="log_temperature"
            )
        self.built = True

    def train_step(self, data):
        with tf.GradientTape() as tape:
            a, b, shown = self.front_end(data)
            batch = ops.shape(a)[0]
            embeddings = self.embed_views(a, b)
            projections = self.projection(embeddings)
            offset = replica_id() * batch
            za, zb = projections[:batch], projections[batch:]
            all_a, all_b = gather(za), gather(zb)
            temperature = self.current_temperature()
            similarity = ops.mean(nt_xent(za, zb, temperature, all_a, all_b, offset))
            logits = self.coincidence(embeddings[:batch], gather(embeddings[batch:]), training=True)
            coincidence = coincidence_loss(logits, offset)
            loss = self.similarity_weight * similarity + self.coincidence_weight * coincidence
        norms = global_mean_step(self, loss, tape, self.clip_norm)
        all_embeddings = gather(embeddings)
        spread, rank = spread_and_rank(all_embeddings)
        return mean_over_replicas(
            {
                "loss": loss,
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
            | pairing_shares(shown)
            | norms
        )

    def current_temperature(self):
        """Of NT-Xent, scalar; never below `MIN_TEMPERATURE`, where it is learned."""
        if not self.learn_temperature:
            return ops.convert_to_tensor(self.temperature, "float32")
        log = ops.convert_to_tensor(self.log_temperature)
        # The gradient passes the floor, so that a temperature can come back from it.
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
