"""The short form of fuzz_audio.py; `python tests/fuzz/fuzz_audio.py` is the long one."""

import importlib.util
import pathlib

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("fuzz_audio.py")


@pytest.fixture(scope="module")
def fuzz_audio():
    spec = importlib.util.spec_from_file_location("fuzz_audio", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_and_odd_files(fuzz_audio, tmp_path, capsys):
    counts = fuzz_audio.main([f"--keep={tmp_path / 'kept'}", "--count=400", "--seed=1"])
    assert counts["failed"] == 0, capsys.readouterr().out
    assert counts["files"] > 400 + 400
    assert counts["read"] > 150  # whoever refuses everything is safe, too
    assert counts["refused"] > 150
    assert counts["read"] + counts["refused"] == counts["files"]
    assert not (tmp_path / "kept").exists()


def test_the_same_seed_makes_the_same_files(fuzz_audio):
    assert fuzz_audio.damaged(0, 7) == fuzz_audio.damaged(0, 7)
    assert fuzz_audio.damaged(0, 7) != fuzz_audio.damaged(1, 7)


def test_what_is_wrong_is_noticed(fuzz_audio, tmp_path, monkeypatch):
    """The watch itself, on a reader that does everything it must not do."""
    from sepssl.audio import files

    path = tmp_path / "a.wav"
    path.write_bytes(dict(fuzz_audio.good_files())["wav"])
    assert fuzz_audio.check_file(path) == "read"
    right = files.read_audio
    for wrong, report in [
        (lambda *_, **__: 1 / 0, "! ZeroDivisionError"),
        (lambda *_, **__: np.array([np.nan]), "! a sample that is not finite"),
        (lambda *args, **kwargs: right(*args, **kwargs)[:-1], "samples"),
    ]:
        monkeypatch.setattr(files, "read_audio", wrong)
        assert report in fuzz_audio.check_file(path)


def test_a_worker_that_hangs_dies_or_grows_is_noticed(fuzz_audio, tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        f"""
import importlib.util, os, signal, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("fuzz_audio", {str(SCRIPT)!r})
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)
def check_file(path):
    if path.name == "hang":
        time.sleep(60)
    if path.name == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name == "talk":
        os.write(2, b"remark")
    if path.name == "grow":
        fuzz.MEMORY = 2**26
        np.ones(2**24)
    return "read"
fuzz.check_file = check_file
fuzz.main()
"""
    )
    monkeypatch.setattr(fuzz_audio, "__file__", str(script))
    monkeypatch.setattr(fuzz_audio, "SECONDS_PER_FILE", 4)
    tally = fuzz_audio.Tally(tmp_path / "kept")
    (tmp_path / "folder").mkdir()
    tally.check_folder(tmp_path / "folder", ["fine", "hang", "fine", "signal", "talk", "grow"])
    lines = (tmp_path / "kept" / "failures.txt").read_text().splitlines()
    assert [line.split(": ", 1)[1].split(":")[0] for line in lines] == [
        "hang",
        "SIGSEGV",
        "wrote to the terminal",
        "memory",
    ]
    assert tally.counts["files"] == 6
    assert tally.counts["read"] == 2
