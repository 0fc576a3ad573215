"""Computes the embeddings of recordings.

sepssl-embed --encoder=PATH.keras --input=FILE_OR_DIR --output=FILE.npz

The file holds `names` [recordings] and `embeddings` float32 [recordings, embedding].
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("encoder", None, "Encoder, a .keras file.", required=True)
flags.DEFINE_string("input", None, "A sound file, or a folder of them.", required=True)
flags.DEFINE_string("output", None, "File to write, ending in .npz.", required=True)


def main(argv):
    import functools
    import pathlib

    import numpy as np

    import sepssl
    from sepssl.audio.files import check_audio
    from sepssl.data.folder import Folder
    from sepssl.data.sources import report_skipped
    from sepssl.errors import InputError
    from sepssl.files import atomic_file
    from sepssl.representation.embed import embed_clips, embed_recording

    output, source = pathlib.Path(FLAGS.output), pathlib.Path(FLAGS.input)
    if output.suffix != ".npz":
        raise InputError(f"{output}: expected a file name that ends in .npz")
    with atomic_file(output) as temporary:
        encoder = sepssl.load_encoder(FLAGS.encoder)
        if source.is_file():
            check_audio(source)
            folder, files = source.parent, [source]
        else:
            folder, files = source, None
        clips = Folder(folder, encoder.sample_rate, min_duration=0.0, labels=None, files=files)
        embeddings, indices, skipped = embed_clips(
            functools.partial(embed_recording, encoder), clips, "embedding"
        )
        names = np.array([clips.names[i] for i in indices])
        np.savez(temporary, names=names, embeddings=embeddings)
    report_skipped([*clips.skipped, *skipped])
    print(f"{output}: embeddings [{len(names)}, {embeddings.shape[1]}]")


def run():
    run_main(main)


if __name__ == "__main__":
    run()
