"""What a user gets wrong is one line on stderr and exit status 1, and leaves nothing behind.

What flags and the file system alone show is answered before TensorFlow is imported.
"""

import importlib
import pathlib
import sys

import numpy as np
import pytest
import soundfile

from sepssl.cli import main, separate
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import save_model

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "data" / "google_mixit_small" / "model.ckpt"
SEPARATOR_SMOKE = f"--config={ROOT}/configs/separator_smoke.py"
ENCODER_SMALL = f"--config={ROOT}/configs/encoder_small.py"
SEPARATOR = "--separator=separator.keras"
ENCODER = "--encoder=encoder.keras"


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Models, good and bad sound files, folders."""
    folder = tmp_path_factory.mktemp("things")
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1), "uniform")
    separator.build((None, None))
    save_model(separator, folder / "separator.keras")
    encoder = Encoder(SmallBackbone(8, width=2))
    encoder.build((None, None))
    save_model(encoder, folder / "encoder.keras")
    (folder / "text.keras").write_text("not a model")
    (folder / "file").write_text("a file")
    (folder / "there.npz").write_text("precious")
    (folder / "wrong.py").write_text("def get_config():\n    return 1 / 0\n")
    (folder / "task.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'task': 'sing'})\n"
    )
    for name in ("bad", "mixed", "empty", "full", "theirs"):
        (folder / name).mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "theirs" / "corpus.json").write_text('{"name": "birds"}')
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 24000)
    soundfile.write(folder / "mixed" / "a.wav", noise, 16000)
    whole = (folder / "mixed" / "a.wav").read_bytes()
    bad = folder / "bad"
    (bad / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.wav").write_bytes(b"")
    (bad / "text.flac").write_text("no sound")
    soundfile.write(bad / "zero_length.wav", np.zeros(0), 16000)
    soundfile.write(bad / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(bad / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    return folder


EARLY = [  # command, arguments, what the line says
    ("train", ["--workdir=out"], "--config is required"),
    ("train", [SEPARATOR_SMOKE], "--workdir is required"),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.trian.steps=3"],
        "unknown configuration key: trian.steps; did you mean train.steps",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.train.step=3"],
        "unknown configuration key: train.step; did you mean train.steps",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.frames.steps=3"],
        "unknown configuration key: frames.steps; did you mean train.steps",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.nonsense=3"],
        "unknown configuration key: nonsense; --help lists the keys",
    ),
    ("train", [SEPARATOR_SMOKE, "--workdir=out", "--config.train.steps=many"], "train.steps=many"),
    (
        "train",
        [SEPARATOR_SMOKE, ENCODER_SMALL, "--workdir=out", "--config.train.steps=3"],
        "--config: is given 2 times (",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config", "none.py"],
        "separator_smoke.py, none.py); expected one configuration",
    ),
    (
        "train",
        ["--workdir=out", "--config.seed=1", SEPARATOR_SMOKE],
        "was specified; expected --config before --config.KEY",
    ),
    ("train", ["--config=none.py", "--workdir=out"], "none.py: no such file"),
    ("train", ["--config=none.py", "--workdir=out", "--config.seed=1"], "none.py: no such file"),
    ("train", ["--config=wrong.py", "--workdir=out"], "ZeroDivisionError: division by zero"),
    ("train", ["--config=task.py", "--workdir=out"], "task='sing': expected one of separator, "),
    ("train", [SEPARATOR_SMOKE, "--workdir=file"], "file: is a file; expected a folder"),
    ("train", [SEPARATOR_SMOKE, "--workdir=out", "more"], "unexpected argument 'more'"),
    (
        "separate",
        ["--separator=none.keras", "--input=mixed", "--output=out"],
        "none.keras: no such",
    ),
    ("separate", [SEPARATOR, "--input=none.wav", "--output=out"], "none.wav: does not exist"),
    ("separate", [SEPARATOR, "--input=mixed", "--output=file"], "file: is a file; expected a"),
    (
        "separate",
        [SEPARATOR, "--input=mixed", "--output=out", "--chunk_seconds=0.5"],
        "--chunk_seconds=0.5: expected 1 or more, or 0",
    ),
    (
        "separate",
        [SEPARATOR, "--input=mixed", "--output=out", "--active_db=5000"],
        "--active_db=5000.0: expected -200 to 200 dB",
    ),
    ("mix", ["--input=none", "--output=out"], "none: does not exist"),
    ("mix", ["--input=mixed", "--output=file"], "file: is a file; expected a folder"),
    ("mix", ["--input=mixed", "--output=mixed/out"], "--output=mixed/out: lies in --input=mixed"),
    (
        "mix",
        ["--input=mixed", "--output=out", "--part_seconds=1,x"],
        "--part_seconds=1,x: expected numbers, with commas between them",
    ),
    ("mix", ["--input=mixed", "--output=out", "--seconds=0"], "duration 0.0: expected at least"),
    ("mix", ["--input=mixed", "--output=out", "--rooms=none"], "none: does not exist"),
    *(
        (
            command,
            [f"--{flag}=a", f"--{flag}=b"],
            f"flag --{flag}=b: already defined as a; expected",
        )
        for command, flag in (
            ("separate", "input"),
            ("embed", "input"),
            ("mix", "input"),
            ("quickstart", "input"),
            ("quickstart", "workdir"),
            ("train", "workdir"),
            ("evaluate", "dataset"),
            ("corpus", "manifest"),
            ("search", "query"),
            ("classify", "scores"),
            *((command, "output") for command in ("classify", "corpus", "curves", "embed")),
            *((command, "output") for command in ("evaluate", "export", "map", "mix", "separate")),
            ("import_google_checkpoint", "output"),
            ("import_panns_checkpoint", "output"),
        )
    ),
    (
        "classify",
        ["--index=mixed"],
        "expected a task as the first argument: train, apply, suggest",
    ),
    ("corpus", ["--output=out"], "expected a task as the first argument: separate, embed"),
    ("corpus", ["copy", "--output=out"], "expected a task as the first argument: separate, embed"),
    ("corpus", ["--manifest=mixed", "--output=out"], "expected a task as the first argument"),
    ("corpus", ["separate", "--output=out"], "--manifest is required"),
    ("corpus", ["separate", "--manifest=none.csv", "--output=out"], "none.csv: does not exist"),
    ("corpus", ["separate", "--manifest=mixed", "--output=file"], "file: is a file; expected a"),
    (
        "corpus",
        ["separate", "--manifest=mixed", "--output=full", SEPARATOR],
        "full: is not empty and holds no corpus.json of this package",
    ),
    (
        "corpus",
        ["separate", "--manifest=mixed", "--output=theirs", SEPARATOR],
        "theirs: is not empty and holds no corpus.json of this package",
    ),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--format=flac"],
        "--format: is for separate, not for embed",
    ),
    (
        "corpus",
        ["separate", "--manifest=mixed", "--output=out", "--clip_seconds=2"],
        "--clip_seconds: is for --format=store, not for flac",
    ),
    (
        "corpus",
        ["separate", "--manifest=mixed", "--output=out", "--format=store", "--speed=2"],
        "--speed: is not for --format=store",
    ),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--beam_options=--x"],
        "--beam_options: are for a runner of Beam",
    ),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--runner=Flink", "--processes=2"],
        "--processes: are local ones",
    ),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--encoder=none.keras"],
        "none.keras: no such file",
    ),
    ("corpus", ["embed", "--manifest=", "--output=out"], "no name is given; expected a .csv file"),
    ("corpus", ["embed", "--manifest=mixed", "--output="], "no output is named"),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--audible_db=nan"],
        "--audible_db=nan: expected a level of 0 dB or below",
    ),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--speed=1e-30"],
        "--speed=1e-30: expected 0.0001 to 10000",
    ),
    (
        "corpus",
        ["embed", "--manifest=mixed", "--output=out", "--runner=DirectRunner", "--beam_options='"],
        "--beam_options=': cannot be split (No closing quotation)",
    ),
    ("embed", [ENCODER, "--input=mixed", "--output=there.npz"], "there.npz: exists already"),
    ("embed", [ENCODER, "--input=mixed", "--output=out.txt"], "ends in .npz"),
    ("embed", [ENCODER, "--input=none", "--output=out.npz"], "none: does not exist"),
    ("embed", [ENCODER, "--output=out.npz"], "--input is required"),
    (
        "evaluate",
        [SEPARATOR, "--dataset=scenes", "--baselines", "--output=out.json"],
        "--baselines: applies to encoders only",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=scenes", "--data_dir=mixed", "--output=out.json"],
        "--data_dir: applies to TFDS datasets only, not to --dataset=scenes",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=mixed", "--num_clips=9", "--output=out.json"],
        "--num_clips: applies to scenes and separators only",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=scenes", "--protocol=folds", "--output=out.json"],
        "--dataset=scenes: expected a folder or a manifest with folds for --protocol=folds",
    ),
    (
        "evaluate",
        [SEPARATOR, "--dataset=mixed", "--protocol=folds", "--output=out.json"],
        "--protocol=folds: applies to encoders only",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=mixed", "--protocol=folds", "--test_fold=1", "--output=out.json"],
        "--test_fold: does not apply to --protocol=folds",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=mixed", "--protocol=folds", "--pooling=max", "--output=out.json"],
        "--pooling: 'max': expected some of mean, mean_max, mean_max_std",
    ),
    (
        "evaluate",
        ["--embeddings=none", "--dataset=mixed", "--protocol=folds", "--output=out.json"],
        "none: does not exist; expected embeddings in a .npz file",
    ),
    (
        "evaluate",
        ["--saved_model=mixed", "--dataset=mixed", "--protocol=folds", "--output=out.json"],
        "mixed/saved_model.pb: does not exist; expected a SavedModel's folder",
    ),
    (
        "evaluate",
        ["--embeddings=there.npz", "--dataset=mixed", "--output=out.json"],
        "--embeddings: applies to --protocol=folds only",
    ),
    (
        "evaluate",
        ["--embeddings=there.npz", ENCODER, "--dataset=mixed", "--output=out.json"],
        "for --protocol=folds, one of --encoder, --saved_model, --embeddings",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=mixed", "--protocol=folds", "--signature=a", "--output=out.json"],
        "--signature: applies to --saved_model only",
    ),
    (
        "evaluate",
        [ENCODER, "--dataset=mixed", "--subset=esc10", "--output=out.json"],
        "--subset: applies to --protocol=folds only",
    ),
    ("evaluate", ["--dataset=scenes", "--output=out.json"], "either --encoder or --separator"),
    (
        "evaluate",
        [ENCODER, SEPARATOR, "--dataset=scenes", "--output=out.json"],
        "either --encoder or --separator",
    ),
    ("evaluate", [ENCODER, "--dataset=none", "--output=out.json"], "none: does not exist"),
    ("quickstart", ["--workdir=file"], "file: is a file; expected a folder"),
    (
        "quickstart",
        ["--workdir=out", "--from_scratch", "--preset=tiny"],
        "should be one of <default|smoke>",
    ),
    (
        "import_google_checkpoint",
        ["--checkpoint=none", "--output=out.keras"],
        "none: not a TensorFlow",
    ),
    (
        "import_google_checkpoint",
        [f"--checkpoint={CHECKPOINT}", "--output=out.h5"],
        "ends in .keras",
    ),
    (
        "import_panns_checkpoint",
        ["--checkpoint=none.pth", "--output=out.keras"],
        "none.pth: no such",
    ),
    ("curves", ["--runs=mixed", "--metrics=loss", "--output=out.png"], "has no metrics.jsonl"),
    (
        "curves",
        ["--runs=mixed", "--metrics=loss", "--output=out.gif"],
        "ends in .png, .svg or .pdf",
    ),
    ("export", ["--encoder=nothing.keras", "--output=out"], "nothing.keras: no such file"),
    ("export", [ENCODER, "--output=full"], "full: is not empty"),
    ("export", [ENCODER, "--output=out", "--format=gguf"], "<saved_model|tflite|onnx|hear|hub>"),
    ("export", [ENCODER, "--output=out", "tflite"], "unexpected argument"),
    ("export", [ENCODER, "--output=out", "--fromat=tflite"], "flag 'fromat'"),
    ("export", ["--output=out"], "expected --encoder, --separator, or both"),
    (
        "export",
        [ENCODER, "--output=out", "--input=mixed"],
        "--input: 'mixed': expected some of waveform, patch, log_mel (what the exported ",
    ),
    (
        "export",
        [ENCODER, SEPARATOR, "--output=out", "--format=tflite"],
        "--format=tflite: encoder and separator in one are written as saved_model only",
    ),
    (
        "export",
        [ENCODER, "--output=out", "--format=onnx", "--precision=int8"],
        "--precision: applies only to --format=tflite",
    ),
    (
        "export",
        [ENCODER, "--output=out", "--precision=int8"],
        "--precision: applies only to --format=tflite",
    ),
    (
        "export",
        [SEPARATOR, "--output=out", "--format=tflite", "--input=patch"],
        "--input: applies only to --format=tflite|onnx with --encoder",
    ),
    (
        "export",
        [ENCODER, "--output=out", "--format=tflite", "--seconds=5"],
        "--seconds: applies only to --format=tflite with --separator",
    ),
    (
        "export",
        [ENCODER, "--output=out", "--format=tflite", "--precision=int8,int4", "--calibration=none"],
        "'int4': expected some of float32, float16, dynamic, int8",
    ),
    (
        "export",
        [ENCODER, "--output=out", "--format=tflite", "--precision=int8", "--calibration=none"],
        "none: does not exist",
    ),
    ("export", [ENCODER, "--output=."], "is the current folder"),
    (
        "export",
        [ENCODER, "--output=out", "--format=tflite", "--precision=int8"],
        "expected --calibration, recordings",
    ),
    ("export", [SEPARATOR, "--output=out", "--format=hear"], "applies to encoders only"),
    (
        "export",
        [ENCODER, SEPARATOR, "--output=out", "--format=hub"],
        "--format=hub: encoder and separator in one are written as saved_model only",
    ),
    (
        "export",
        ["--encoder=hf://birds", "--output=out"],
        "hf://birds: expected hf://OWNER/REPOSITORY[@REVISION][/FILE.keras]",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.task=encoder"],
        "has no views, which task='encoder' needs",
    ),
]
LATE = [
    ("train", [SEPARATOR_SMOKE, "--workdir=out", "--config.data.sample_rate=0"], "sample_rate=0"),
    ("train", [SEPARATOR_SMOKE, "--workdir=full"], "holds files but no config.json"),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.data.directory=none"],
        "none: does not exist; expected a sound file, a folder",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.data.directory=file"],
        "file: has the suffix ''; expected a sound file",
    ),
    (
        "train",
        [SEPARATOR_SMOKE, "--workdir=out", "--config.data.directory=empty"],
        "empty: holds no sound file",
    ),
    ("train", [ENCODER_SMALL, "--workdir=out"], "views.separators is empty"),
    (
        "train",
        [ENCODER_SMALL, "--workdir=out", "--config.views.separators=encoder.keras"],
        "Encoder; expected a .keras file that holds a sepssl Separator",
    ),
    ("train", [SEPARATOR_SMOKE, "--workdir=out", "--config.train.batch_size=7"], "batch_size=7"),
    *(
        ("separate", [SEPARATOR, f"--input=bad/{name}", "--output=out"], says)
        for name, says in (
            ("truncated.wav", "truncated.wav: is truncated"),
            ("empty.wav", "empty.wav: is empty"),
            ("text.flac", "text.flac: is not readable as sound"),
            ("zero_length.wav", "zero_length.wav: "),
            ("silent.wav", "silent.wav: is silent"),
            ("nan.wav", "nan.wav: holds NaN"),
        )
    ),
    ("embed", [ENCODER, "--input=bad/truncated.wav", "--output=out.npz"], "wav: is truncated"),
    (
        "embed",
        [SEPARATOR.replace("separator=", "encoder="), "--input=mixed", "--output=out.npz"],
        "Separator; expected a .keras file that holds a sepssl Encoder",
    ),
    ("evaluate", [ENCODER, "--dataset=empty", "--output=out.json"], "empty: holds no sound file"),
    ("evaluate", [SEPARATOR, "--dataset=empty", "--output=out.json"], "empty: holds no sound file"),
    ("quickstart", ["--workdir=full"], "holds files but no config.json"),
    ("export", ["--encoder=text.keras", "--output=out"], "text.keras: "),
    ("export", ["--encoder=separator.keras", "--output=out"], "Separator; expected"),
]


def ids(cases):
    return [f"{command}-{i}" for i, (command, _, _) in enumerate(cases)]


def files_in(folder):
    """Without what Python stores of a configuration that it reads."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def require_one_line(call, folder, command, arguments, says):
    before = files_in(folder)
    result = call(command, *arguments)
    assert result.status == 1, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"sepssl-{command.replace('_', '-')}: error: ")
    assert says in lines[0]
    assert files_in(folder) == before
    assert (folder / "there.npz").read_text() == "precious"
    return result


@pytest.mark.parametrize(("command", "arguments", "says"), EARLY, ids=ids(EARLY))
def test_flags_alone(call, things, monkeypatch, command, arguments, says):
    def imported(module):
        pytest.fail(f"{module} is imported before the flags are checked")

    # Imported before: a command whose first import fell into this test would keep the replacement.
    for module in (main, importlib.import_module(f"sepssl.cli.{command}")):
        if hasattr(module, "import_quietly"):
            monkeypatch.setattr(module, "import_quietly", imported)
    folder = things / "empty" if "--output=." in arguments else things
    monkeypatch.chdir(folder)
    if folder != things:
        arguments = ["--encoder=../encoder.keras", *arguments[1:]]
    result = require_one_line(call, things, command, arguments, says)
    assert result.stdout == ""


@pytest.mark.parametrize(("command", "arguments", "says"), LATE, ids=ids(LATE))
def test_what_only_the_work_shows(call, things, monkeypatch, command, arguments, says):
    monkeypatch.chdir(things)
    require_one_line(call, things, command, arguments, says)


def test_a_traceback_on_request(call, things, monkeypatch, capsys):
    monkeypatch.chdir(things)
    values = main.flags.FlagValues()
    main.flags.DEFINE_integer("verbosity", 1, "As absl's.", flag_values=values)
    separate.define_flags(values)
    values(["sepssl-separate", SEPARATOR, "--input=none.wav", "--output=out"])
    assert main.execute(separate, values) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("sepssl-separate: error: none.wav: does not exist")


def test_a_broken_installation_is_not_bad_input(call, things, monkeypatch):
    """An import that fails keeps its traceback; only a missing extra is one line."""
    monkeypatch.chdir(things)
    monkeypatch.setitem(sys.modules, "sepssl.pipelines.separate", None)
    with pytest.raises(ImportError):
        call("separate", SEPARATOR, "--input=mixed", "--output=out")


def test_a_missing_extra_is_one_line(call, things, monkeypatch):
    monkeypatch.chdir(things)
    (things / "cnn14.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = call("import_panns_checkpoint", "--checkpoint=cnn14.pth", "--output=out.keras")
    assert result.status == 1
    assert result.stderr.count("\n") == 1
    assert "pip install 'sepssl[panns]'" in result.stderr
