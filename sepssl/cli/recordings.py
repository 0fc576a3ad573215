"""Flags of commands that go through recordings."""

from absl import flags

from sepssl.data.spec import FORMS


def define_recording_flags(values: flags.FlagValues, listener: str) -> None:
    """Defines --input, --data_dir, --truncated and --speed.

    Args:
        values: what they are added to.
        listener: the model that recordings are played to, for the help.
    """
    flags.DEFINE_string(
        "input",
        None,
        f"The recordings: {FORMS}.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", "", "Folder of TFDS datasets; TFDS's default if empty.", flag_values=values
    )
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
