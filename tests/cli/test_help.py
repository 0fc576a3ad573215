import collections
import importlib
import pathlib
import re
import shlex
from importlib import metadata

import pytest
from absl import flags
from ml_collections import ConfigDict

from sepssl.cli import train
from sepssl.cli.main import parse
from sepssl.configs import encoder_small

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def keys(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_flags_and_how_to_see_a_configuration(call):
    result = call("train", "--help")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("Trains a separator or an encoder")
    assert "--workdir: Folder of the run" in result.stdout
    assert "--config=FILE --help" in result.stdout


def test_flags_that_several_commands_have(call):
    for command, model in (("embed", "encoder"), ("separate", "separator")):
        shown = call(command, "--help").stdout
        names = re.findall(r"^  --(?:\[no\])?(\w+):", shown, re.MULTILINE)
        assert {"input", "truncated", "speed", "output"} <= set(names)
        assert names == sorted(names)
        assert f"played to the {model}" in " ".join(shown.split())


def test_all_keys_of_a_configuration_with_values_and_comments(call):
    result = call("train", "--help", f"--config={CONFIGS}/encoder_small.py")
    shown = dict(re.findall(r"^  ([a-z_.]+)=(.*)$", result.stdout, re.MULTILINE))
    assert list(shown) == list(keys(encoder_small.get_config()))
    assert shown["data.sample_rate"].split("#") == [f"{'16000':<29}  ", " Hz"]
    assert shown["views.overlap"].endswith("# False: the two patches share nothing")
    # A comment above its key, on two lines.
    assert (
        "# Random frequency response of every view; 0 for none. Not in the paper. 12 dB"
        in (shown["views.equalization_db"])
    )
    assert shown["train.batch_size"] == "64"


def test_comments_of_the_configuration_that_another_changes(call):
    result = call("train", f"--config={CONFIGS}/separator_smoke.py", "--help")
    assert re.search(r"^  train.crop_seconds=2.0$", result.stdout, re.MULTILINE)
    assert re.search(r"^  data.clip_seconds=2.0 +# of scenes", result.stdout, re.MULTILINE)


def test_keys_of_stages_within_a_configuration(call):
    """Where the stages' comments on a key differ, there is none."""
    result = call("train", f"--config={CONFIGS}/from_scratch.py", "--help")
    assert re.search(
        r"^  encoder.encoder.width=0 +# channels of the fi", result.stdout, re.MULTILINE
    )
    assert re.search(r"^  separator.task=separator$", result.stdout, re.MULTILINE)


def test_a_configuration_that_cannot_be_read(call, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    result = call("train", "--help", f"--config={tmp_path}/broken.py")
    assert result.status == 0
    assert "broken.py: could not be read as a configuration (SyntaxError" in result.stdout


def test_a_configuration_by_its_name(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # outside a checkout
    by_name = call("train", "--config=encoder_small", "--help").stdout
    assert by_name == call("train", "--help", f"--config={CONFIGS}/encoder_small.py").stdout
    (tmp_path / "file").touch()
    for arguments in (["--config=separator_shipped:small-mixit"], ["--config", "encoder_small"]):
        result = call("train", *arguments, "--workdir=file", "--config.train.steps=7")
        assert "file: is a file; expected a folder" in result.stderr
    result = call("train", "--config=separator_tiny", "--workdir=file")
    assert re.search("separator_tiny: no such file; .* or one of .*separator_small", result.stderr)
    # A file comes first, but a run's folder of that name does not.
    (tmp_path / "encoder_small").mkdir()
    result = call("train", "--config=encoder_small", "--workdir=file")
    assert "file: is a file; expected a folder" in result.stderr
    (tmp_path / "encoder_small").rmdir()
    (tmp_path / "encoder_small").write_text("no Python")
    result = call("train", "--config=encoder_small", "--workdir=file")
    assert "encoder_small: could not be read as a configuration" in result.stderr
    assert "task=None" not in call("train", "--config=quickstart", "--workdir=file").stderr


def test_a_configuration_by_its_name_in_a_file_of_flags(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "flags.txt").write_text("--config=encoder_small\n--config.train.steps=7\n")
    result = call("train", "--flagfile=flags.txt", "--workdir=file")
    assert result.stderr.endswith("file: is a file; expected a folder for the run\n")
    (tmp_path / "flags.txt").write_text("--config=encoder_small\n--config.train.stepss=7\n")
    result = call("train", "--flagfile=flags.txt", "--workdir=file")
    assert "unknown configuration key: train.stepss; did you mean train.steps" in result.stderr
    result = call("train", "--flagfile=none.txt", "--workdir=file")
    assert result.status == 1
    assert "none.txt" in result.stderr
    (tmp_path / "flags.txt").write_bytes("--config=encoder_small\n".encode("utf-16"))
    result = call("train", "--flagfile=flags.txt", "--workdir=file")
    assert result.status == 1
    assert len(result.stderr.splitlines()) == 1


def test_a_stopped_table_of_trainings_is_kept(tmp_path):
    values = flags.FlagValues()
    parse(train, values, ["sepssl-train", "--config=encoder_small", f"--workdir={tmp_path}"])
    assert train.stopped(values) == "no checkpoint of a training has been written yet"
    folder = tmp_path / "seed-0" / "separator-0123" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "ckpt-500.index").touch()
    assert train.stopped(values) == "what is finished is kept; repeat the command to continue"


# Flags of one name whose defaults differ, and why.
OTHER_DEFAULTS = {
    "encoder": "embed starts with the shipped one; search takes that of its index; evaluate and "
    "export need one model of several kinds",
    "separator": "as encoder; without one, embed has rows of recordings alone",
    "classifier": "of one task of classify",
    "format": "export writes models, corpus channels",
    "rows": "classify learns from recordings alone, for which labels are written",
    "output": "search also prints, and some tasks of classify have other outputs",
    "input": "quickstart has scenes of its own; that of export names arrays",
    "sample_rate": "evaluate reads it from what it is given",
    "seconds": "of export: none",
}


def scripts():
    found = metadata.entry_points(group="console_scripts")
    return sorted((e.name, e.value) for e in found if e.name.startswith("sepssl-"))


def parsed(line):
    """The flags of a command line, which is parsed; what it names need not be there."""
    name, *arguments = shlex.split(line)
    command = importlib.import_module(dict(scripts())[name].partition(":")[0])
    values = flags.FlagValues()
    assert parse(command, values, [name, *arguments]) == [name]
    return values


@pytest.mark.parametrize("name", [name for name, _ in scripts()])
def test_help_has_an_example_and_says_where_results_lie_and_what_is_next(
    call, name, tmp_path, monkeypatch
):
    result = call(name.removeprefix("sepssl-").replace("-", "_"), "--help")
    assert result.status == 0
    assert f"\n{name} " in result.stdout
    parts = re.split(r"\n(Example:|Results:|Next.*:)\s", result.stdout.partition("\nFlags:")[0])
    assert [part.partition(",")[0].rstrip(":") for part in parts[1::2]] == [
        "Example", "Results", "Next"
    ]  # fmt: skip
    _, _, example, _, results, _, following = parts
    assert len(results.split()) > 3
    lines = [line.strip() for line in (example + following).splitlines() if line.strip()]
    assert lines[0].startswith(f"{name} ")
    assert len(lines) > 1
    for line in lines:
        monkeypatch.setattr("sys.argv", shlex.split(line))
        parsed(line)


def test_flags_of_one_name_have_one_default():
    defaults = collections.defaultdict(set)
    for _, value in scripts():
        values = flags.FlagValues()
        importlib.import_module(value.partition(":")[0]).define_flags(values)
        for flag in values:
            default = values[flag].default
            defaults[flag].add(str(default))
    differ = {flag for flag, found in defaults.items() if len(found) > 1}
    assert differ <= set(OTHER_DEFAULTS), differ
