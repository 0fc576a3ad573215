"""Computes the embeddings of recordings.

sepssl-embed --encoder=PATH.keras --input=FILE_OR_DIR --output=FILE.npz

The file holds `names` [recordings] and `embeddings` float32 [recordings, embedding].
"""

import sys

from absl import flags

from sepssl.cli.checks import require_exists, require_model, require_new_file
from sepssl.cli.main import run as run_command


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "encoder", None, "Encoder, a .keras file.", required=True, flag_values=values
    )
    flags.DEFINE_string(
        "input", None, "A sound file, or a folder of them.", required=True, flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "File to write, ending in .npz.", required=True, flag_values=values
    )


def check(values: flags.FlagValues) -> None:
    require_new_file(values.output, (".npz",))
    require_model(values.encoder, "Encoder")
    require_exists(values.input, "a sound file or a folder of them")


def main(values: flags.FlagValues) -> None:
    import functools
    import pathlib

    import numpy as np

    import sepssl
    from sepssl.audio.files import check_audio
    from sepssl.data.folder import Folder
    from sepssl.data.sources import report_skipped
    from sepssl.files import atomic_file
    from sepssl.representation.embed import embed_clips, embed_recording

    encoder, source = sepssl.load_encoder(values.encoder), pathlib.Path(values.input)
    if source.is_file():
        check_audio(source)
        folder, files = source.parent, [source]
    else:
        folder, files = source, None
    clips = Folder(folder, encoder.sample_rate, min_duration=0.0, labels=None, files=files)
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
