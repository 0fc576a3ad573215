"""Every command and every example of README and the pages is run, or says why not."""

import importlib
import shlex
import shutil
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from absl import flags

from sepssl.cli.main import execute, parse

from .pages import PAGES, ROOT, blocks, commands

LANGUAGES = {"sh", "python", "text"}  # "text" is what nobody runs: equations, output
# Trainings of the pages, made small.
SMALL = {
    "separator": [
        "train.steps=2",
        "train.warmup_steps=1",
        "train.batch_size=4",
        "train.crop_seconds=1.0",
        "separator.bottleneck_channels=4",
        "separator.conv_channels=8",
        "separator.dilations_per_repeat=2",
        "separator.repeats=1",
        "separator.unroll=False",
        "data.num_clips=16",
        "data.num_validation=2",
        "data.clip_seconds=1.5",
    ],
    "encoder": [
        "train.steps=2",
        "train.warmup_steps=1",
        "train.batch_size=4",
        "train.probe_clips=8",
        "encoder.width=2",
        "views.max_distance_seconds=0.3",
        "data.num_clips=16",
        "data.clip_seconds=1.5",
    ],
}


def run(command: str, world, recordings) -> None:
    """Runs a command line in which `world` stands for /tmp, `recordings` for FOLDER.

    Trainings go operation by operation, as with the fixture `eager`: graphs of both stages are
    traced in tests/pipelines/test_from_scratch.py.
    """
    command = command.replace("/tmp/", f"{world}/").replace("LABELLED_FOLDER", "FOLDER")
    program, *arguments = shlex.split(command.replace("FOLDER", str(recordings)))
    assert program.startswith("sepssl-"), f"{command}: not a command of this package"
    for stage, values in SMALL.items():
        if f"--config={stage}_small" in command:
            arguments += [f"--config.{value}" for value in values]
    name = program.removeprefix("sepssl-").replace("-", "_")
    module = importlib.import_module(f"sepssl.cli.{name}")
    argv = [program, *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)  # where ml_collections looks for --config.KEY
        patch.chdir(ROOT)
        values = flags.FlagValues()
        parse(module, values, argv)
        tf.config.run_functions_eagerly(name == "train")
        try:
            assert execute(module, values) == 0, command
        finally:
            tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def trained(forked_exports, tmp_path_factory):
    """Recordings in a folder for each class, and the models that README trains on them."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for kind, frequency in (("dogs", 400.0), ("cats", 1500.0)):
        (folder / "recordings" / kind).mkdir(parents=True)
        for i in range(12):
            t = np.arange(32000) / 16000
            tone = np.sin(2 * np.pi * frequency * rng.uniform(0.9, 1.1) * t)
            noisy = 0.3 * tone + rng.normal(0, 0.03, len(t))
            soundfile.write(folder / "recordings" / kind / f"{i}.wav", noisy, 16000)
    readme = [c for b in blocks(PAGES[0].read_text()) if not b.reason for c in commands(b.code)]
    for command in readme:
        if command.startswith("sepssl-train"):
            run(command, folder, folder / "recordings")
    return folder


LONG = ("classify", "export", "library", "recordings")
MARKED = [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in LONG), id=p.stem) for p in PAGES]


@pytest.mark.parametrize("page", MARKED)
def test_page(page, trained, tmp_path, monkeypatch):
    world = tmp_path / "world"
    shutil.copytree(trained, world)
    # Modules that an example imports from a folder of its own are not those of another test.
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = {"__name__": "page"}  # the blocks of a page follow each other
    for block in blocks(page.read_text()):
        if block.reason:
            continue
        if block.language == "sh":
            for command in commands(block.code):
                # The recordings are not those of the copy: a run is continued on its own.
                run(command, world, trained / "recordings")
        elif block.language == "python" and "--8<--" not in block.code:
            code = f"{block.code}\n{block.check}".replace("/tmp/", f"{world}/")
            code = code.replace("FOLDER", str(trained / "recordings"))
            exec(compile("\n" * block.line + code, str(page), "exec"), names)


def test_readme_is_short_and_blocks_are_of_known_languages():
    assert len(PAGES[0].read_text().splitlines()) <= 150
    for page in PAGES:
        text = page.read_text()
        assert "PLACEHOLDER" not in text, page
        found = blocks(text)
        assert text.count("\n```") == 2 * len(found), f"{page}: a block that is not recognised"
        for block in found:
            assert block.language in LANGUAGES, f"{page}, line {block.line}"
