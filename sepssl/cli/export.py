"""Writes an encoder, a separator, or both in one, in a format that other programs load.

sepssl-export --encoder=PATH.keras --output=DIR [--format=saved_model|tflite|onnx|hear|hub]
sepssl-export --separator=PATH.keras --output=DIR [--format=saved_model|tflite|onnx|hub]
sepssl-export --separator=PATH.keras --encoder=PATH.keras --output=DIR
sepssl-export --encoder=PATH.keras --classifier=PATH.npz --output=DIR \
    [--format=saved_model|tflite|onnx|hub]

TF Lite: a file for every --input and --precision. In int8 an encoder needs --calibration,
recordings like those that it will meet. Less than float32 needs the extra `tflite`.
ONNX: a file for every --input. Needs the extra `onnx`.
A hub's folder has the model, a SavedModel, TF Lite and ONNX, a card for Hugging Face, and what
Kaggle's commands read. Needs the extra `onnx`.

Example:
  sepssl-export --encoder=encoder/final.keras --format=tflite --output=tflite

Results: DIR, with card.json, which describes inputs, outputs, sizes and how far they are from the
original; every file was loaded and checked in a process of its own.

Next:
  sepssl-evaluate --saved_model=saved_model --dataset=labelled --protocol=folds --output=scores.json
"""

import sys

from absl import flags

from sepssl.cli.checks import require_exists
from sepssl.cli.main import run as run_command
from sepssl.data.spec import is_path, require_clips
from sepssl.errors import InputError
from sepssl.export.errors import require_onnx
from sepssl.files import require_new_folder
from sepssl.weights import license_of, model_file

# The --formats and the models that a flag is about; with others it would be ignored in silence.
_USES = {
    "precision": (("tflite",), ("encoder", "separator")),
    "input": (("tflite", "onnx"), ("encoder",)),
    "calibration": (("tflite",), ("encoder",)),
    "seconds": (("tflite",), ("separator",)),
    "accept_errors": (("tflite",), ("encoder", "separator")),
}
_PRECISIONS = ("float32", "float16", "dynamic", "int8")
_INPUTS = ("waveform", "patch", "log_mel")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "encoder",
        None,
        "Encoder: a .keras file, a name (small) or hf://OWNER/REPOSITORY.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "separator",
        None,
        "Separator: a .keras file, a name (small) or hf://OWNER/REPOSITORY.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "classifier",
        None,
        "Classifier of the encoder's embeddings, from sepssl-classify: waveform in, scores out.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder to write; must be new or empty.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format",
        "saved_model",
        ["saved_model", "tflite", "onnx", "hear", "hub"],
        "What to write.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "precision", ["float32"], f"TF Lite: some of {','.join(_PRECISIONS)}.", flag_values=values
    )
    flags.DEFINE_list(
        "input",
        ["waveform"],
        "Encoder as TF Lite or ONNX: what its files take, some of "
        f"{','.join(_INPUTS)}; not a file or folder.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "seconds",
        None,
        "Separator as TF Lite: takes this length only (rounded up to whole frames), for runtimes "
        "without dynamic shapes; any length if not given.",
        lower_bound=0.001,
        flag_values=values,
    )
    flags.DEFINE_string(
        "calibration",
        "",
        'int8: a sound file, a folder, a manifest (.csv), "tfds:NAME[/CONFIG]", or "scenes".',
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", "", "Folder of TFDS datasets; TFDS's default if empty.", flag_values=values
    )
    flags.DEFINE_boolean(
        "accept_errors",
        False,
        "TF Lite: also write files that are less exact than they should be.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "license",
        "",
        "License of the weights, for the model card, best as an SPDX identifier (CC-BY-4.0).",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    models = _models(values)
    if not models:
        raise InputError("no model; expected --encoder, --separator, or both")
    for name, known, meaning in (
        ("precision", _PRECISIONS, ""),
        ("input", _INPUTS, " (what the exported encoder takes, not recordings)"),
    ):
        for value in getattr(values, name):
            if value not in known:
                expected = ", ".join(known)
                raise InputError(f"--{name}: {value!r}: expected some of {expected}{meaning}")
    if len(_models(values)) == 2 and values.format != "saved_model":
        raise InputError(
            f"--format={values.format}: encoder and separator in one are written as saved_model "
            "only"
        )
    if values.classifier and (models != ["encoder"] or values.format == "hear"):
        raise InputError(
            "--classifier: applies to an encoder as saved_model, tflite, onnx or hub; expected "
            "--encoder only"
        )
    if values.classifier:
        require_exists(values.classifier, "a classifier that sepssl-classify has trained")
        for name in ("input", "calibration"):
            if values[name].present:
                raise InputError(f"--{name}: does not apply to --classifier")
        if not {"float32", "float16"} >= set(values.precision):
            raise InputError("--precision: expected float32 or float16 with --classifier")
    if models == ["separator"] and values.format == "hear":
        raise InputError("--format=hear: applies to encoders only; expected --encoder")
    for name, (formats, kinds) in _USES.items():
        if values[name].present and (values.format not in formats or models[-1] not in kinds):
            raise InputError(
                f"--{name}: applies only to --format={'|'.join(formats)} with "
                f"--{' or --'.join(kinds)}"
            )
    if values.calibration and "int8" not in values.precision:
        raise InputError("--calibration: applies only to --precision=int8")
    if values.encoder and "int8" in values.precision and not values.calibration:
        raise InputError(
            "--precision=int8: expected --calibration, recordings like those that the encoder "
            "will meet"
        )
    for name in models:
        model_file(getattr(values, name), name.capitalize())
    if values.calibration:
        require_clips(values.calibration)
    if values.format in ("onnx", "hub"):
        require_onnx()
    require_new_folder(values.output)


def _models(values: flags.FlagValues) -> list[str]:
    return [name for name in ("encoder", "separator") if values[name].value]


def main(values: flags.FlagValues) -> None:
    import sepssl
    from sepssl import export
    from sepssl.evaluation.window_classifier import load_classifier
    from sepssl.pipelines.classify import require_encoder_of

    output = values.output
    license = values.license or _license(values)
    encoder = sepssl.load_encoder(values.encoder) if values.encoder else None
    separator = sepssl.load_separator(values.separator) if values.separator else None
    classifier = load_classifier(values.classifier) if values.classifier else None
    if classifier and encoder:
        require_encoder_of(classifier, encoder, values.classifier)
    # Most of it is the conversion of one graph, which tells nothing of how far it is.
    print(f"writing {values.format} -> {output}; half a minute to two, with checks", flush=True)
    if values.format == "hub":
        card = _save_hub(values, license)
        _print_card(output, card)
        _print_license(card["license"])
        return
    origin = export.origin_of(
        *(model_file(getattr(values, name), name.capitalize()) for name in _models(values)),
        license=license,
    )
    shared = {"precisions": values.precision, "accept_errors": values.accept_errors}
    if classifier and encoder:
        if values.format == "onnx":
            card = export.save_onnx_classifier(encoder, classifier, output, origin)
        elif values.format == "tflite":
            card = export.convert_classifier(encoder, classifier, output, origin, **shared)
        else:
            card = export.save_classifier(encoder, classifier, output, origin)
    elif encoder and separator:
        card = export.save_scene(separator, encoder, output, origin)
    elif values.format == "hear":
        card = export.save_hear(encoder, output, origin)
    elif values.format == "saved_model":
        card = (
            export.save_encoder(encoder, output, origin)
            if encoder
            else export.save_separator(separator, output, origin)
        )
    elif values.format == "onnx":
        card = (
            export.save_onnx_encoder(encoder, output, origin, inputs=values.input)
            if encoder
            else export.save_onnx_separator(separator, output, origin)
        )
    elif encoder:
        calibration = _calibration(values, encoder.log_mel)
        card = export.convert_encoder(
            encoder, output, origin, inputs=values.input, calibration=calibration, **shared
        )
    else:
        card = export.convert_separator(separator, output, origin, seconds=values.seconds, **shared)
    _print_card(output, card)


def _save_hub(values, license):
    from sepssl import export

    if values.classifier:
        return export.save_hub_classifier(values.encoder, values.classifier, values.output, license)
    if values.encoder:
        return export.save_hub_encoder(values.encoder, values.output, license)
    return export.save_hub_separator(values.separator, values.output, license)


def _license(values):
    """That of models that come with the package, if they are all that is exported."""
    if values.classifier:
        return ""
    stated = {license_of(getattr(values, name), name.capitalize()) for name in _models(values)}
    return stated.pop() if len(stated) == 1 else ""


def _print_card(output, card):
    print(f"{output}: {card['kind']} as {card['format']}, {card['sample_rate']} Hz in, out:")
    for name, details in card["outputs"].items():
        print(f"  {name} [{', '.join(map(str, details['shape']))}]")
    _print_checks(card["checks"])


def _print_license(license):
    """What is left to do for Kaggle, if it has no name for the licence of a hub's folder."""
    from sepssl.export.kaggle import VARIATION, kaggle_license

    if license and not kaggle_license(license):
        print(f"Kaggle has no licence {license}: fill in licenseName in each {VARIATION}")


def _calibration(values, log_mel):
    """Yields waveforms of a few patches each, once they are asked for."""
    import numpy as np

    from sepssl.data.clips import Skipped, report_skipped
    from sepssl.data.segments import Segments
    from sepssl.data.sources import Scenes, open_clips
    from sepssl.export.tflite import CALIBRATION_PATCHES

    if not values.calibration:
        return
    patch_seconds = log_mel.patch_samples / log_mel.sample_rate
    clips = open_clips(
        values.calibration,
        log_mel.sample_rate,
        min_seconds=patch_seconds,
        scenes=Scenes({"calibration": CALIBRATION_PATCHES}),
        data_dir=values.data_dir or None,
    )
    if is_path(values.calibration):
        clips = Segments(clips, 2 * patch_seconds)
    count = min(len(clips), CALIBRATION_PATCHES)
    skipped: list[Skipped] = []
    for index in np.linspace(0, len(clips) - 1, count).round().astype(int):
        try:
            yield clips.read(index)
        except InputError as error:
            skipped.append(Skipped(clips.names[index], str(error)))
    # Only now it is known which sounds of mixed scenes could not be used.
    report_skipped([*clips.skipped, *skipped])


def _print_checks(checks):
    if "cosine" in checks:
        print(f"Largest relative error on fixed clips: {checks['relative_error']:.1e}")
    else:
        for name, check in checks.items():
            size, cosine = check["bytes"] / 1e3, check["cosine"]
            print(f"{name}: {size:.0f} kB, lowest cosine on fixed clips: {cosine:.6f}")


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
