"""Writes an encoder in a format that other programs load.

sepssl-export --encoder=PATH.keras --output=DIR --format=saved_model|tflite
"""

from absl import flags

from sepssl.atomic import refuse_nonempty_folder
from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

flags.DEFINE_string("encoder", None, "Encoder, a .keras file.", required=True)
flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", required=True)
flags.DEFINE_enum("format", "saved_model", ["saved_model", "tflite"], "What to write.")


def main(argv):
    refuse_nonempty_folder(FLAGS.output)  # Before the seconds that the imports take.
    import sepssl
    from sepssl.export import convert_encoder, save_encoder

    encoder = sepssl.load_encoder(FLAGS.encoder)
    write = {"saved_model": save_encoder, "tflite": convert_encoder}[FLAGS.format]
    card = write(encoder, FLAGS.output)
    print(
        f"{FLAGS.output}: {FLAGS.format}, {card['sample_rate']} Hz -> {card['embedding_size']} "
        f"values, largest relative error {card['checks']['relative_error']:.1e}"
    )


def run():
    run_main(main)


if __name__ == "__main__":
    run()
