import concurrent.futures
import contextlib
import errno
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.files import write_audio
from sepssl.data.store import ClipStore
from sepssl.errors import InputError, OutputError
from sepssl.export import save_encoder
from sepssl.files import (
    atomic_file,
    atomic_folder,
    lock_folder,
    require_apart,
    scratch_folder,
    together,
    write_failure,
    write_text,
)
from sepssl.representation import Encoder, SmallBackbone
from sepssl.serialization import save_model


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"file\.txt: exists already"), atomic_file(path):
        pass
    with pytest.raises(InputError, match="is a folder"), atomic_file(tmp_path):
        pass
    with pytest.raises(InputError, match="is not empty"), atomic_folder(tmp_path):
        pass
    with pytest.raises(InputError, match="is a file"), atomic_folder(path):
        pass
    assert path.read_text() == "precious"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a").read_text() == "a"
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "a").write_text(f"{1 / 0}")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with atomic_folder(tmp_path / "link") as temporary:
        (temporary / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "a").read_text() == "a"


def test_an_empty_folder_that_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        with pytest.raises(InputError, match="is the current folder"), atomic_folder(path):
            pass


def test_an_empty_mount_point():
    mount = pathlib.Path("/dev/shm")
    if not mount.is_mount() or any(mount.iterdir()):
        pytest.skip("there is no empty mount point")
    with pytest.raises(InputError, match="shm: is a mount point"), atomic_folder(mount):
        pass


def test_no_permission(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o555)
    was = os.geteuid()
    if was == 0:  # root may write anywhere: be nobody for a moment
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:4]:
            parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with (
            pytest.raises(InputError, match=r"closed/file\.txt: could not be written: Perm"),
            atomic_file(tmp_path / "closed" / "file.txt") as temporary,
        ):
            temporary.write_text("a")
    finally:
        os.seteuid(was)


def test_what_the_block_reads_is_not_blamed_on_the_output(tmp_path):
    missing = tmp_path / "labels.csv"
    for writing in (atomic_file(tmp_path / "out.json"), atomic_folder(tmp_path / "out")):
        with pytest.raises(FileNotFoundError, match=r"labels\.csv"), writing:
            missing.read_text()
    with (
        pytest.raises(OutputError, match=r"out: could not be written: No such file"),
        atomic_folder(tmp_path / "out") as temporary,
    ):
        (temporary / "missing" / "a").write_text("a")
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def full_disk(size):
    """No file may grow beyond `size` bytes: writing then fails as on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(tmp_path):
    """A clean line that names the output, and nothing left behind."""
    encoder = Encoder(SmallBackbone(64, width=16))
    encoder.build((None, None))
    noise = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
    writers = {
        "a.txt": lambda path: atomic_text(path, "a" * 200_000),
        "a.wav": lambda path: write_audio(path, 0.1 * noise[0], 16000),
        "a.keras": lambda path: save_model(encoder, path),
        "a": lambda path: save_encoder(encoder, path),
        "store": lambda path: ClipStore(path).fill(
            "here", ["a"], lambda indices: [noise], "filling"
        ),
    }
    for name, write in writers.items():
        path = tmp_path / name
        with full_disk(100_000), pytest.raises(InputError) as raised:
            write(path)
        text = str(raised.value)
        assert text.startswith(f"{path}: could not be written"), text
        assert "\n" not in text
        if name != "a.wav":  # libsndfile does not pass the reason on
            assert text.endswith(": File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]  # made to be continued


def atomic_text(path, text):
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def test_a_failure_to_write_in_plain_words():
    operation = "{{function_node __wrapped__SaveV2_device_/job:localhost}} /tmp/a.tempstate1; "
    error = tf.errors.OutOfRangeError(None, None, operation + "File too large [Op:SaveV2]")
    assert write_failure(error) == "File too large"
    assert write_failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == (
        "No space left on device"
    )
    assert write_failure(OSError("Can't write data")) == "Can't write data"


def test_a_locked_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sepssl.files._PATIENCE", 0.1)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with lock_folder(tmp_path, wait=True):
            entered.set()
            leave.wait(60)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        entered.wait(60)
        with (
            pytest.raises(InputError, match="another process is running in it"),
            lock_folder(tmp_path, wait=False),
        ):
            pass
        assert capsys.readouterr().err == ""
        waiting = pool.submit(hold)
        while not (line := capsys.readouterr().err):
            time.sleep(0.01)
        leave.set()
        waiting.result(60), holding.result(60)
    assert line == f"{tmp_path}: waiting for another process that runs in it\n"


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"file: could not be locked: .*; expected a folder"),
        lock_folder(tmp_path / "file", wait=True),
    ):
        pass


LOCKED_AND_KILLED = """
import os, signal, sys
from sepssl.files import scratch_folder
with scratch_folder(sys.argv[1], ".work-") as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_scratch_folders_of_killed_processes_are_removed_those_of_living_ones_stay(tmp_path):
    subprocess.run([sys.executable, "-c", LOCKED_AND_KILLED, tmp_path], check=False, timeout=60)
    (left,) = tmp_path.glob(".work-*")
    assert (left / "half").read_text() == "half"
    (tmp_path / ".work-of-an-older-version").mkdir()
    (tmp_path / ".other").mkdir()
    with scratch_folder(tmp_path, ".work-") as first:
        assert list(tmp_path.glob(".work-*")) == [first]
        with scratch_folder(tmp_path, ".work-") as second:
            assert sorted(tmp_path.glob(".work-*")) == sorted([first, second])
            (second / "a").write_text("a")
    with pytest.raises(SystemExit), scratch_folder(tmp_path, ".work-"):
        sys.exit(143)
    # Some versions of filelock leave the lock's file, others do not.
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {".other"}


def test_an_output_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a file")
    with pytest.raises(InputError, match="could not be written"), atomic_file(tmp_path / "a.wav/x"):
        pass


def test_several_outputs_appear_together_or_not_at_all(tmp_path):
    def write(places, killed=False):
        table, tracks = places
        table.write_text("table")
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        tracks.mkdir()
        (tracks / "a.txt").write_text("track")

    def write_below_a_file(place):
        place.write_text("a file")
        write_text(place / "x", "below it")

    outputs = [tmp_path / "new" / "a.b.csv", tmp_path / "tracks"]
    (tmp_path / "tracks").mkdir()
    child = os.fork()
    if child == 0:
        with together(outputs) as places:
            write(places, killed=True)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not outputs[0].exists()
    assert not any(outputs[1].iterdir())
    says = rf"^{outputs[1]}/x: could not be written: "
    with pytest.raises(OutputError, match=says), together(outputs[1:]) as (place,):
        write_below_a_file(place)
    with together(outputs) as places:
        assert [place.name for place in places] == ["a.b.csv", "tracks"]
        write(places)
        assert not outputs[0].exists()
    assert outputs[0].read_text() == "table"
    assert (outputs[1] / "a.txt").read_text() == "track"
    with pytest.raises(InputError, match="exists already"), together(outputs) as places:
        write(places)
    with pytest.raises(InputError, match="is not empty"), together(outputs[1:]) as places:
        places[0].mkdir()
    # Left by the killed process, and by no other.
    hidden = [*tmp_path.glob(".*"), *(tmp_path / "new").glob(".*")]
    assert sorted(path.name[:6] for path in hidden) == [".a.b.c", ".track"]


def test_outputs_that_are_links_appear_where_they_lead(tmp_path):
    for name in ("empty", "elsewhere"):
        (tmp_path / name).mkdir()
    links = {"folder": "empty", "new": "elsewhere/new", "a.csv": "elsewhere/b.csv"}
    for name, to in links.items():
        (tmp_path / name).symlink_to(to)
    with together([tmp_path / name for name in links]) as (folder, new, table):
        for place in (folder, new):
            place.mkdir()
            (place / "x").write_text("inside")
        table.write_text("table")
    assert all((tmp_path / name).is_symlink() for name in links)
    for path in ("empty/x", "elsewhere/new/x"):
        assert (tmp_path / path).read_text() == "inside"
    assert (tmp_path / "elsewhere" / "b.csv").read_text() == "table"


def test_outputs_are_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for outputs, message in (
        (["a.csv", tmp_path / "a.csv"], f"{tmp_path}/a.csv: is the same place as a.csv"),
        (["./a.csv", "a.csv"], "a.csv: is the same place as ./a.csv"),
        (["a.csv", "b", "x/../a.csv"], "x/../a.csv: is the same place as a.csv"),
        (["real/a.csv", "link/a.csv"], "link/a.csv: is the same place as real/a.csv"),
        (["a.csv", "a.csv"], "a.csv: is named twice; expected another name"),
        (["link/a.html", "real"], "link/a.html: lies in real, another output; expected"),
        (["real", "a.csv", "link/c/a.html"], "link/c/a.html: lies in real, another output"),
    ):
        with pytest.raises(InputError, match="^" + re.escape(message)):
            require_apart(outputs)
        with pytest.raises(InputError), together(outputs):
            raise AssertionError("was entered")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    require_apart(["real", "real.csv", "other/real", "a.csv"])
