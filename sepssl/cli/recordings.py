"""Flags of commands that go through recordings."""

from absl import flags

from sepssl.data.spec import FORMS
from sepssl.errors import InputError

_POOLS = ["window", "mean", "max", "mean_max"]


def define_recording_flags(values: flags.FlagValues, listener: str) -> None:
    """Defines --input and --data_dir, and what `define_reading_flags` does."""
    flags.DEFINE_string(
        "input",
        None,
        f"The recordings: {FORMS}.",
        required=True,
        allow_overwrite=False,  # a second one would not be added to the first
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", "", "Folder of TFDS datasets; TFDS's default if empty.", flag_values=values
    )
    define_reading_flags(values, listener)


def define_reading_flags(values: flags.FlagValues, listener: str) -> None:
    """Defines --truncated and --speed.

    Args:
        values: what they are added to.
        listener: the model that recordings are played to, for the help.
    """
    flags.DEFINE_enum(
        "truncated",
        "skip",
        ["skip", "keep"],
        "What is done with sound files that end early: they are left out, or what there is of them "
        "is used.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "speed",
        1.0,
        f"Speed at which recordings are played to the {listener}, as 0.1 for bats; what is written "
        "keeps their own seconds and Hz.",
        flag_values=values,
    )


def check_speed(values: flags.FlagValues) -> None:
    from sepssl.audio.decoding import MAX_RATE, MIN_RATE

    least, most = MIN_RATE / MAX_RATE, MAX_RATE / MIN_RATE  # at others no rate can be read
    if not least <= values.speed <= most:
        raise InputError(f"--speed={values.speed}: expected {least:g} to {most:g}")


def define_chunk_flag(values: flags.FlagValues) -> None:
    """Defines --chunk_seconds, of separation."""
    flags.DEFINE_float(
        "chunk_seconds",
        30.0,
        "Longer recordings are separated in chunks of this length; 0: each as a whole, in memory "
        "that grows with its length.",
        lower_bound=0.0,
        flag_values=values,
    )


def check_chunk(values: flags.FlagValues) -> None:
    if not (values.chunk_seconds == 0 or 1 <= values.chunk_seconds < float("inf")):
        raise InputError(f"--chunk_seconds={values.chunk_seconds}: expected 1 or more, or 0")


def define_window_flags(values: flags.FlagValues) -> None:
    """Defines --window_seconds, --hop_seconds, --pool and --audible_db, of embeddings."""
    flags.DEFINE_float(
        "window_seconds", None, "Length of a window; by default the patch.", flag_values=values
    )
    flags.DEFINE_float(
        "hop_seconds",
        None,
        "From one window to the next; by default half of the window or, if that is the patch, the "
        "encoder's hop between patches.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "pool",
        "window",
        _POOLS,
        "A row for every window, or one for each recording: the mean over its windows and "
        "channels, the maximum, or both in one vector.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "audible_db",
        -30.0,
        "Level relative to the mixture from which a channel of a window has a row.",
        upper_bound=0.0,
        flag_values=values,
    )


def check_windows(values: flags.FlagValues) -> None:
    for name in ("window_seconds", "hop_seconds"):
        value = values[name].value
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name}={value}: expected more than 0")
    if not -float("inf") < values.audible_db <= 0:
        raise InputError(f"--audible_db={values.audible_db}: expected a level of 0 dB or below")
