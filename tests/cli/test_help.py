import pathlib
import re

from ml_collections import ConfigDict

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
        "# Random frequency response of every view. Not in the paper; what helped"
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
