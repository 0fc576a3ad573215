"""Writes an encoder, a separator, or both in one, in a format that other programs load.

sepssl-export --encoder=PATH.keras --output=DIR [--format=saved_model|tflite|hear]
sepssl-export --separator=PATH.keras --output=DIR [--format=saved_model|tflite]
sepssl-export --separator=PATH.keras --encoder=PATH.keras --output=DIR

TF Lite: a file for every --input and --precision. In int8 an encoder needs --calibration,
recordings like those that it will meet. Less than float32 needs the extra `tflite`.
"""

from absl import flags

from sepssl.cli.main import run_main
from sepssl.files import require_new_folder

FLAGS = flags.FLAGS

flags.DEFINE_string("encoder", None, "Encoder, a .keras file.")
flags.DEFINE_string("separator", None, "Separator, a .keras file.")
flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", required=True)
flags.DEFINE_enum("format", "saved_model", ["saved_model", "tflite", "hear"], "What to write.")
flags.DEFINE_list("precision", ["float32"], "TF Lite: some of float32,float16,dynamic,int8.")
flags.DEFINE_list("input", ["waveform"], "TF Lite encoder: some of waveform,patch,log_mel.")
flags.DEFINE_string("calibration", "", 'int8: a sound file, a folder of them, or "scenes".')
flags.DEFINE_boolean("accept_errors", False, "TF Lite: write also what is less exact than it may.")
flags.DEFINE_string("license", "", "Of the weights, for the model card.")

# What a flag is about, of (format, models); any other use would be ignored in silence.
_USES = {
    "precision": ("tflite", ("encoder", "separator")),
    "input": ("tflite", ("encoder",)),
    "calibration": ("tflite", ("encoder",)),
    "accept_errors": ("tflite", ("encoder", "separator")),
}


def main(argv):
    from sepssl.errors import InputError

    models = [name for name in ("encoder", "separator") if FLAGS[name].value]
    if not models:
        raise InputError("no model; expected --encoder, --separator, or both")
    if len(models) == 2 and FLAGS.format != "saved_model":
        raise InputError(f"--format={FLAGS.format}: of both in one, only saved_model is written")
    if models == ["separator"] and FLAGS.format == "hear":
        raise InputError("--format=hear: is for encoders; expected --encoder")
    for name, (format, kinds) in _USES.items():
        if FLAGS[name].present and (FLAGS.format != format or models[-1] not in kinds):
            raise InputError(f"--{name}: is for --format={format} of an {' or '.join(kinds)}")
    if FLAGS.calibration and "int8" not in FLAGS.precision:
        raise InputError("--calibration: is for --precision=int8")
    require_new_folder(FLAGS.output)  # Before the seconds that the imports take.

    import sepssl
    from sepssl import export

    encoder = sepssl.load_encoder(FLAGS.encoder) if FLAGS.encoder else None
    separator = sepssl.load_separator(FLAGS.separator) if FLAGS.separator else None
    origin = export.origin_of(*(FLAGS[name].value for name in models), license=FLAGS.license)
    output = FLAGS.output
    shared = {"precisions": FLAGS.precision, "accept_errors": FLAGS.accept_errors}
    if encoder and separator:
        card = export.save_scene(separator, encoder, output, origin)
    elif FLAGS.format == "hear":
        card = export.save_hear(encoder, output, origin)
    elif FLAGS.format == "saved_model":
        card = (
            export.save_encoder(encoder, output, origin)
            if encoder
            else export.save_separator(separator, output, origin)
        )
    elif encoder:
        calibration = _calibration(encoder.log_mel)
        card = export.convert_encoder(
            encoder, output, origin, inputs=FLAGS.input, calibration=calibration, **shared
        )
    else:
        card = export.convert_separator(separator, output, origin, **shared)
    print(f"{output}: {card['kind']} as {card['format']}, {card['sample_rate']} Hz in, out:")
    for name, details in card["outputs"].items():
        print(f"  {name} [{', '.join(map(str, details['shape']))}]")
    _print_checks(card["checks"])


def _calibration(log_mel):
    """Yields waveforms of a few patches each, once they are asked for."""
    import pathlib

    import numpy as np

    from sepssl.audio.files import check_audio
    from sepssl.data.folder import Folder
    from sepssl.data.scenes.clips import SceneClips
    from sepssl.data.scenes.scene import SceneConfig
    from sepssl.data.segments import Segments
    from sepssl.data.sources import report_skipped
    from sepssl.errors import InputError
    from sepssl.export.tflite import CALIBRATION_PATCHES

    if not FLAGS.calibration:
        return
    source, sample_rate = pathlib.Path(FLAGS.calibration), log_mel.sample_rate
    if FLAGS.calibration == "scenes":
        config = SceneConfig(sample_rate=sample_rate)
        clips = SceneClips(config, 0, "calibration", CALIBRATION_PATCHES)
    else:
        files = [source] if source.is_file() else None
        for file in files or []:
            check_audio(file)
        folder = Folder(source.parent if files else source, sample_rate, labels=None, files=files)
        clips = Segments(folder, 2 * log_mel.patch_samples / sample_rate)
    count = min(len(clips.names), CALIBRATION_PATCHES)
    skipped = list(clips.skipped)
    for index in np.linspace(0, len(clips.names) - 1, count).round().astype(int):
        try:
            yield clips.read(index)
        except InputError as error:
            skipped.append((clips.names[index], str(error)))
    report_skipped(skipped)


def _print_checks(checks):
    if "cosine" in checks:
        print(f"Largest relative error on fixed clips: {checks['relative_error']:.1e}")
    else:
        for name, check in checks.items():
            size, cosine = check["bytes"] / 1e3, check["cosine"]
            print(f"{name}: {size:.0f} kB, lowest cosine on fixed clips: {cosine:.6f}")


def run():
    run_main(main)


if __name__ == "__main__":
    run()
