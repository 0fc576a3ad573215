import contextlib
import os
import unicodedata

import numpy as np
import pytest
import soundfile

from sepssl.audio.files import read_audio, write_audio
from sepssl.data.folder import Folder, file_digest, file_stamp, list_audio, list_sounds
from sepssl.data.labels import NoLabels
from sepssl.data.sources import open_clips
from sepssl.errors import InputError

RATE = 16000


def write(path, seconds=1.0, rate=RATE, channels=1, subtype="PCM_16"):
    shape = (channels, int(seconds * rate))
    waveform = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, shape)
    write_audio(path, waveform, rate, subtype)
    return path


@pytest.fixture
def mixed(tmp_path):
    """Recordings of mixed formats, rates, channels and lengths, in subfolders."""
    write(tmp_path / "b" / "stereo.WAV", 2.0, 44100, 2)
    write(tmp_path / "b" / "telephone.flac", 1.5, 8000)
    write(tmp_path / "a.ogg", 1.0, RATE, subtype="VORBIS")
    write(tmp_path / "c" / "d" / "deep.mp3", 3.0, 48000, subtype="MPEG_LAYER_III")
    return tmp_path


@contextlib.contextmanager
def unprivileged():
    """Root may read anything: become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_list_is_recursive_sorted_and_skips_what_is_hidden(mixed):
    write(mixed / ".hidden.wav")
    write(mixed / ".cache" / "x.wav")
    (mixed / "notes.txt").write_text("no sound")
    names = [path.relative_to(mixed).as_posix() for path in list_audio(mixed)]
    assert names == ["a.ogg", "b/stereo.WAV", "b/telephone.flac", "c/d/deep.mp3"]


@pytest.mark.parametrize("plan", ['{"name": "birds"}', "[1]", "birds"])
def test_shards_of_other_programs_are_recordings(mixed, plan):
    write(mixed / "theirs" / "shards" / "x.wav")
    (mixed / "theirs" / "corpus.json").write_text(plan)
    assert mixed / "theirs" / "shards" / "x.wav" in list_audio(mixed)
    (mixed / "theirs" / "corpus.json").write_text('{"task": "separate", "shard_size": 64}')
    assert mixed / "theirs" / "shards" / "x.wav" not in list_audio(mixed)


def test_shards_beside_a_plan_that_cannot_be_read_are_not_taken_for_recordings(mixed):
    write(mixed / "damaged" / "shards" / "x.wav")
    (mixed / "damaged" / "corpus.json").symlink_to("corpus.json")  # to itself: an error of the disk
    assert mixed / "damaged" / "shards" / "x.wav" not in list_audio(mixed)


def test_list_follows_links_but_not_in_circles(mixed, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "far.wav")
    (mixed / "link").symlink_to(elsewhere)
    (mixed / "b" / "up").symlink_to(mixed)
    names = [path.relative_to(mixed).as_posix() for path in list_audio(mixed)]
    assert names == ["a.ogg", "b/stereo.WAV", "b/telephone.flac", "c/d/deep.mp3", "link/far.wav"]


def test_list_refuses(tmp_path):
    with pytest.raises(InputError, match=r"none: does not exist; expected a folder"):
        list_audio(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no sound file; expected files ending in .wav"):
        list_audio(tmp_path)
    with pytest.raises(InputError, match=r"a\.wav: is a file; expected a folder"):
        list_audio(write(tmp_path / "a.wav"))


def test_list_refuses_an_unreadable_folder(tmp_path):
    write(tmp_path / "open.wav")
    write(tmp_path / "locked" / "a.wav")
    (tmp_path / "locked").chmod(0)
    # Below /tmp/pytest-of-root nobody may enter at all, which is refused the same way.
    with unprivileged(), pytest.raises(InputError, match="cannot be read: Permission denied"):
        list_audio(tmp_path)
    (tmp_path / "locked").chmod(0o700)


def test_a_stamp_changes_when_a_file_is_touched_and_a_digest_with_its_content(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(20_000))

    def state():
        return file_stamp(path), file_digest(path, file_stamp(path))

    first = state()
    assert state() == first
    status = path.stat()
    # One byte near the beginning, the times set back: same size, same middle.
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = state()
    assert second[0] != first[0]
    assert second[1] != first[1]
    other = tmp_path / "b.wav"
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)  # another file in its place, of the same content
    assert state()[0] != second[0]
    assert state()[1] == second[1]
    path.unlink()
    assert state()[0] == "missing"


def test_sound_that_is_not_read_is_listed_with_the_reason(tmp_path):
    write(tmp_path / "a.wav")
    sound = (tmp_path / "a.wav").read_bytes()
    for name in ("b.m4a", "c.WMA", "sub/d.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "no_suffix").write_bytes(sound)
    (tmp_path / "e.dat").write_bytes(sound)
    for kind in ("FLAC", "OGG", "CAF", "AU", "AIFF", "W64", "NIST", "RF64"):
        soundfile.write(tmp_path / f"f_{kind}.dat", np.zeros(9), RATE, format=kind)
    for name, start in (("g.ape2", b"MAC "), ("g.wavpack", b"wvpk"), ("g.mpeg3", b"ID3")):
        (tmp_path / name).write_bytes(start + bytes(40))
    (tmp_path / "utf-16.txt").write_text("no sound at all", encoding="utf-16")  # ff fe, as MPEG
    for name in ("LICENSE", "notes.txt", "labels.csv", "picture.png"):
        (tmp_path / name).write_bytes(b"no sound at all")
    paths, skipped = list_sounds(tmp_path)
    assert [path.name for path in paths] == ["a.wav"]
    assert [entry.name for entry in skipped] == [
        "b.m4a",
        "c.WMA",
        "e.dat",
        *(f"f_{kind}.dat" for kind in ("AIFF", "AU", "CAF", "FLAC", "NIST", "OGG", "RF64", "W64")),
        "g.ape2",
        "g.mpeg3",
        "g.wavpack",
        "no_suffix",
        "sub/d.webm",
    ]
    for name, reason in skipped:
        assert reason.startswith(f"{tmp_path}/{name}: ")
        assert "; expected " in reason
    assert Folder(tmp_path, RATE).skipped == skipped


def test_clips_are_mono_at_one_rate_and_as_long_as_promised(mixed):
    clips = Folder(mixed, RATE)
    assert clips.names == ["a.ogg", "b/stereo.WAV", "b/telephone.flac", "c/d/deep.mp3"]
    assert len(clips) == 4
    assert clips.skipped == []
    assert clips.labels is None
    assert clips.class_names is None
    for index, seconds in enumerate([1.0, 2.0, 1.5, 3.0]):
        assert clips.num_samples(index) == seconds * RATE
        waveform = clips.read(index)
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, read_audio(mixed / clips.names[index], RATE))
        assert len(waveform) == clips.num_samples(index)


@pytest.mark.parametrize("rate", [11025, 16000, 22050, 44100])
@pytest.mark.parametrize("frames", [16001, 16007, 17777])
def test_promised_length_holds_for_odd_lengths(tmp_path, rate, frames):
    write_audio(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, frames), 16000)
    clips = Folder(tmp_path, rate)
    assert len(clips.read(0)) == clips.num_samples(0)


def test_part_of_a_clip_is_the_slice(mixed):
    clips = Folder(mixed, RATE)
    for index in range(len(clips)):
        part = clips.read(index, start=5001, length=7000)
        np.testing.assert_allclose(part, clips.read(index)[5001:12001], atol=1e-6)
        np.testing.assert_allclose(
            clips.read(index, start=9999), clips.read(index)[9999:], atol=1e-6
        )


def test_broken_files_are_skipped_with_a_reason(mixed):
    whole = (mixed / "b" / "telephone.flac").read_bytes()
    (mixed / "cut.flac").write_bytes(whole[:5000])
    (mixed / "empty.wav").touch()
    (mixed / "garbage.wav").write_text("no sound")
    write(mixed / "short.wav", 0.5)
    clips = Folder(mixed, RATE)
    assert len(clips) == 4
    reasons = {name: reason.removeprefix(f"{mixed}/{name}: ") for name, reason in clips.skipped}
    assert reasons["cut.flac"].startswith("is truncated")
    assert reasons["empty.wav"].startswith("is empty (0 bytes)")
    assert reasons["garbage.wav"].startswith("is not readable as sound")
    assert reasons["short.wav"] == "is 0.500 s long; expected 0.975 s or more"
    assert len(Folder(mixed, RATE, min_duration=0.5)) == 5


def test_silence_and_nan_are_found_by_decoding(mixed):
    write_audio(mixed / "silent.wav", np.zeros(RATE), RATE)
    clips = Folder(mixed, RATE)
    with pytest.raises(InputError, match="silent"):
        clips.read(clips.names.index("silent.wav"))


def test_nothing_usable(tmp_path):
    (tmp_path / "a.wav").touch()
    write(tmp_path / "b.wav", 0.1)
    with pytest.raises(InputError, match=r"2 skipped, the first: .*a.wav: is empty \(0 bytes\)"):
        Folder(tmp_path, RATE)
    with pytest.raises(InputError, match="sample_rate"):
        Folder(tmp_path, 0)


def test_labels_from_csv(mixed):
    (mixed / "labels.csv").write_text(
        "filename,fold,labels\n"
        "b/stereo.WAV,1,dog;cat\n"
        '"a.ogg",1,\n'
        "./b/telephone.flac,2, bell ; dog\n"
    )
    clips = Folder(mixed, RATE).labelled()
    assert clips.class_names == ["bell", "cat", "dog"]
    assert clips.names == ["a.ogg", "b/stereo.WAV", "b/telephone.flac"]
    np.testing.assert_array_equal(clips.labels, [[0, 0, 0], [0, 1, 1], [1, 0, 1]])
    assert clips.labels.dtype == np.int8
    assert clips.folds == ["1", "1", "2"]
    assert clips.splits is None
    ((name, reason),) = clips.skipped
    assert name == "c/d/deep.mp3"
    assert f"has no row in {mixed}/labels.csv" in reason
    assert len(Folder(mixed, RATE)) == 4


def test_labels_stay_aligned_when_files_are_skipped(mixed):
    (mixed / "a.ogg").write_bytes(b"")
    (mixed / "labels.csv").write_text(
        "filename,labels\na.ogg,only\nb/stereo.WAV,x\nb/telephone.flac,y\nc/d/deep.mp3,x;y\n",
        encoding="utf-8-sig",  # as spreadsheet programs save it
    )
    clips = Folder(mixed, RATE).labelled()
    assert clips.class_names == ["only", "x", "y"]
    np.testing.assert_array_equal(clips.labels, [[0, 1, 0], [0, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,labels\na.ogg,x\n", "has the columns name, labels;"),
        ("", "has no header;"),
        ("filename,labels\nz.wav,x\n", r"line 2: names 'z.wav', which is not a sound file"),
        ("filename,labels\na.ogg,x\na.ogg,y\n", "line 3: names 'a.ogg' again"),
        ("filename,labels\na.ogg\n", "line 2: has fewer fields"),
        ("filename,labels\na.ogg,\n", "has no labels"),
        ("filename,labels\na.ogg,\udcff\n", "is not CSV text in UTF-8"),
        ("filename,labels\na.ogg,x,y\n", "line 2: has more fields than the header"),
        ("filename,labels,split\na.ogg,x,later\n", "line 2: names the split .later.;"),
    ],
)
def test_bad_labels_csv(mixed, text, reason):
    (mixed / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=rf"labels\.csv.*{reason}.*expected"):
        Folder(mixed, RATE).labelled()


def test_labels_from_subfolders(mixed):
    with pytest.raises(NoLabels, match=r"a\.ogg: is not in a subfolder, and there is no"):
        Folder(mixed, RATE).labelled()
    (mixed / "a.ogg").unlink()
    clips = Folder(mixed, RATE).labelled()
    assert clips.class_names == ["b", "c"]
    np.testing.assert_array_equal(clips.labels, [[1, 0], [1, 0], [0, 1]])


def test_names_match_however_accents_are_encoded(tmp_path):
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        other = {"NFC": "NFD", "NFD": "NFC"}[form]
        write(folder / unicodedata.normalize(form, "grün.wav"))
        row = unicodedata.normalize(other, "grün.wav,wald")
        (folder / "labels.csv").write_text(f"filename,labels\n{row}\n", encoding="utf-8")
        clips = Folder(folder, RATE).labelled()
        assert clips.names == [unicodedata.normalize(form, "grün.wav")]
        np.testing.assert_array_equal(clips.labels, [[1]])


def test_a_row_may_name_a_file_that_is_skipped(mixed):
    (mixed / "broken.wav").write_bytes(b"no sound")
    (mixed / "film.m4a").write_bytes(b"sound elsewhere")
    (mixed / "labels.csv").write_text("filename,labels\na.ogg,x\nbroken.wav,y\nfilm.m4a,z\n")
    clips = Folder(mixed, RATE).labelled()
    assert clips.names == ["a.ogg"]
    assert clips.class_names == ["x", "y", "z"]


def test_clips_of_truncated_files(tmp_path):
    waveform = (0.1 * np.random.default_rng(0).normal(size=48000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, 48000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", waveform, 48000, subtype="FLOAT")
    whole = Folder(tmp_path, 16000, 0.1).read(0)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) - 12000 * 4])
    assert [name for name, _ in Folder(tmp_path, 16000, 0.1).skipped] == ["a.wav"]
    clips = open_clips(tmp_path, 16000, allow_truncated=True)
    assert (list(clips.names), list(clips.skipped)) == (["a.wav", "b.wav"], [])
    assert [clips.truncated(i) for i in (0, 1)] == ["0.75 of 1.00 s", ""]
    assert clips.num_samples(0) == 12000
    np.testing.assert_allclose(clips.read(0)[:-100], whole[: 12000 - 100], atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(list(clips.stream(0).blocks)), waveform[:36000])
    assert clips.stamp(0).startswith("0+12000 ")

    (tmp_path / "parts.csv").write_text(
        "path,start,duration\na.wav,0,0.5\na.wav,0.5,0.5\na.wav,0.25,\na.wav,0.8,0.1\n"
    )
    parts = open_clips(tmp_path / "parts.csv", 16000, allow_truncated=True)
    assert [parts.truncated(i) for i in range(len(parts))] == [
        "",
        "0.25 of 0.50 s",
        "0.50 of 0.75 s",
    ]
    assert [parts.num_samples(i) for i in range(len(parts))] == [8000, 4000, 8000]
    assert [name for name, _ in parts.skipped] == ["a.wav#0.80-0.90"]
    np.testing.assert_array_equal(
        np.concatenate(list(parts.stream(1).blocks)), waveform[24000:36000]
    )


def test_clips_played_at_another_speed(tmp_path):
    waveform = (0.1 * np.random.default_rng(0).normal(size=96000)).astype(np.float32)
    for name, rate, lines in (
        ("fast", 384000, "0.05,0.1\na.wav,0.1,"),
        ("slow", 38400, "0.5,1\na.wav,1,"),
    ):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", waveform, rate, subtype="FLOAT")
        (tmp_path / name / "parts.csv").write_text(f"path,start,duration\na.wav,{lines}\n")
    for spec in ("a.wav", "parts.csv"):
        fast = open_clips(tmp_path / "fast" / spec, RATE, speed=0.1)
        slow = open_clips(tmp_path / "slow" / spec, RATE)
        assert (fast.speed, slow.speed, len(fast)) == (0.1, 1.0, len(slow))
        for i in range(len(fast)):
            assert fast.num_samples(i) == slow.num_samples(i)
            assert fast.start_seconds(i) == slow.start_seconds(i) / 10
            np.testing.assert_array_equal(fast.read(i), slow.read(i))
            np.testing.assert_array_equal(fast.read(i, 1001, 4000), slow.read(i, 1001, 4000))
            first, second = fast.stream(i), slow.stream(i)
            assert first.sample_rate == second.sample_rate == 38400
            np.testing.assert_array_equal(
                np.concatenate(list(first.blocks)), np.concatenate(list(second.blocks))
            )
    assert fast.origin.endswith("at 16000 Hz, played at 0.1 times the speed")
    with pytest.raises(InputError, match="scenes: is not read from sound files"):
        open_clips("scenes", RATE, speed=0.1)
    with pytest.raises(InputError, match="speed is 0"):
        open_clips(tmp_path / "fast", RATE, speed=0)
