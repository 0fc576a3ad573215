"""Computes the embeddings of recordings.

sepssl-embed --encoder=PATH.keras --input=CLIPS --output=FILE.npz

CLIPS is a sound file, a folder of them, a manifest (.csv), a prepared TFDS dataset (tfds:NAME), or
built-in or mixed scenes ("scenes", mix:FOLDER).
The file holds `names` [recordings] and `embeddings` float32 [recordings, embedding].
"""

import sys

from absl import flags

from sepssl.cli.checks import require_new_file
from sepssl.cli.main import run as run_command
from sepssl.data.spec import FORMS, require_clips
from sepssl.files import require_model


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "encoder", None, "Encoder, a .keras file.", required=True, flag_values=values
    )
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
    flags.DEFINE_string(
        "output", None, "File to write, ending in .npz.", required=True, flag_values=values
    )


def check(values: flags.FlagValues) -> None:
    require_new_file(values.output, (".npz",))
    require_model(values.encoder, "Encoder")
    require_clips(values.input)


def main(values: flags.FlagValues) -> None:
    import functools

    import numpy as np

    import sepssl
    from sepssl.data.clips import report_skipped
    from sepssl.data.sources import open_clips
    from sepssl.files import atomic_file
    from sepssl.representation.embed import embed_clips, embed_recording

    encoder = sepssl.load_encoder(values.encoder)
    clips = open_clips(values.input, encoder.sample_rate, data_dir=values.data_dir or None)
    with atomic_file(values.output) as temporary:
        embeddings, indices, skipped = embed_clips(
            functools.partial(embed_recording, encoder), clips, "embedding"
        )
        names = np.array([clips.names[i] for i in indices])
        np.savez(temporary, names=names, embeddings=embeddings)
    report_skipped([*clips.skipped, *skipped])
    print(f"{values.output}: embeddings [{len(names)}, {embeddings.shape[1]}]")


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
