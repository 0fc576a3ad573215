"""The network that a run starts from: a new one, or one from a file (`train.init_from`)."""

from collections.abc import Callable

import keras
from ml_collections import ConfigDict

from sepssl.errors import InputError
from sepssl.files import sha256_of
from sepssl.representation.build import make_encoder
from sepssl.representation.encoder import Encoder, load_encoder
from sepssl.representation.whitening import WhitenedBackbone
from sepssl.separation.build import make_separator
from sepssl.separation.separator import Separator, load_separator
from sepssl.training.precision import policy_named
from sepssl.weights import model_file


def initial_encoder(config: ConfigDict) -> Encoder:
    """The encoder that training starts from.

    With `config.train.init_from`, it is the network in that file, including its front end but
    without a whitening, and `config.encoder` is ignored; otherwise it is the one that
    `config.encoder` describes.

    Raises:
        InputError: if the file or network does not exist, or its sample rate is not
            `config.data.sample_rate`.
    """
    encoder = _initial(config, "encoder", load_encoder, make_encoder)
    if isinstance(encoder.backbone, WhitenedBackbone):  # whose scale is not what heads begin with
        encoder = Encoder(encoder.backbone.backbone, encoder.log_mel)
    return encoder


def initial_separator(config: ConfigDict) -> Separator:
    """The separator that training starts from; `initial_encoder` for `config.separator`."""
    return _initial(config, "separator", load_separator, make_separator)


def announce_start(config: ConfigDict, network: str) -> None:
    """Prints that a run starts from a file and therefore ignores some keys."""
    if path := config.train.get("init_from", ""):
        print(f"starting from the network in {path}; {network}.* is ignored", flush=True)


def settings_of_run(config: ConfigDict, network: str) -> dict:
    """The settings that identify a run: its configuration without the keys that have no effect.

    Those are the location of its cache, how many checkpoints it keeps, in how many parts a
    separator's batch is computed and, if it starts from a file, the keys of the network. The path
    of that file is replaced by a digest of its content.

    Args:
        config: the configuration of either stage.
        network: "encoder" or "separator".

    Returns:
        Nested dicts.
    """
    settings = config.to_dict()
    del settings["data"]["cache"]
    settings["train"].pop("keep_checkpoints", None)
    if network == "separator":  # for encoders, they decide which clips are negatives
        settings["train"].pop("gradient_accumulation_steps", None)
    if path := settings["train"].get("init_from"):
        settings["train"]["init_from"] = (
            f"sha256:{sha256_of(model_file(path, network.capitalize()))}"
        )
        settings[network] = {}
    return settings


def _initial(
    config: ConfigDict,
    network: str,
    load: Callable[[str], keras.Model],
    make: Callable[[ConfigDict, int, str], keras.Model],
) -> keras.Model:
    path, rate = config.train.get("init_from", ""), config.data.sample_rate
    precision = config.train.get("precision", "float32")
    dtype = policy_named(precision)
    if not path:
        return make(config[network], rate, dtype)
    if precision != "float32":
        raise InputError(
            f"train.init_from={path}, train.precision={precision!r}: a network from a file is "
            "trained in float32; expected train.precision='float32'"
        )
    model = load(path)
    if model.sample_rate != rate:
        raise InputError(
            f"train.init_from={path}: works at {model.sample_rate} Hz; expected "
            f"--config.data.sample_rate={model.sample_rate}, not {rate}"
        )
    return model
