"""Chooses the devices of a run."""

import tensorflow as tf

from sepssl.errors import InputError

NAMES = ("auto", "default", "mirrored")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """A strategy for this machine.

    Args:
        name: "default" for one device without replication; "mirrored" for one replica on every GPU
            or, without GPUs, on every logical CPU; "auto" for "mirrored" if there are several GPUs,
            else "default".

    Raises:
        InputError: if `name` is not one of these.
    """
    if name not in NAMES:
        raise InputError(f"strategy={name!r}: expected one of {', '.join(NAMES)}")
    gpus = tf.config.list_logical_devices("GPU")
    if name == "default" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def require_pairs_on_every_replica(
    batch_size: int, strategy: tf.distribute.Strategy, parts: int = 1
) -> None:
    """Raises InputError unless a global batch splits into equal, even parts.

    Neighbours in a batch must stay together: MixIT adds them up, example mixing mixes them.

    Args:
        batch_size: of the global batch.
        strategy: whose replicas share it.
        parts: that each replica computes one after the other.
    """
    multiple = 2 * strategy.num_replicas_in_sync * parts
    if batch_size < multiple or batch_size % multiple:
        raise InputError(
            f"train.batch_size={batch_size}: expected a multiple of {multiple}"
            + (f" with train.gradient_accumulation_steps={parts}" if parts > 1 else "")
        )
