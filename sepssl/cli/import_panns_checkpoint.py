"""Makes an encoder of a checkpoint of PANNs' CNN14, as a `.keras` file.

sepssl-import-panns-checkpoint --checkpoint=FILE.pth --output=FILE.keras
"""

from absl import flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("checkpoint", None, "PyTorch's file, as released.", required=True)
flags.DEFINE_string("output", None, "File to write, ending in .keras.", required=True)


def main(argv):
    import pathlib

    from sepssl.errors import InputError
    from sepssl.representation.panns_checkpoint import import_panns
    from sepssl.serialization import save_model

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".keras":
        raise InputError(f"{output}: expected a file name that ends in .keras")
    if output.exists():
        raise InputError(f"{output}: exists already; expected a new file")
    encoder = import_panns(FLAGS.checkpoint)
    save_model(encoder, output)
    print(
        f"{output}: embeddings of {encoder.embedding_size} at {encoder.sample_rate} Hz, "
        f"{encoder.log_mel.bands} mel bands, {encoder.count_params():,} parameters"
    )


def run():
    run_main(main)


if __name__ == "__main__":
    run()
