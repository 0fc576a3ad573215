import numpy as np
import pytest
import soundfile

from sepssl.data.folder import Folder
from sepssl.data.segments import Segments
from sepssl.data.sources import open_clips
from sepssl.errors import InputError


@pytest.fixture
def segments(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in (("short", 0.5), ("just", 2.9), ("long#er", 9.0)):
        sound = 0.1 * rng.normal(size=int(8000 * seconds))
        if name == "long#er":
            sound[16000:32000] = 0.0
        soundfile.write(tmp_path / f"{name}.wav", sound, 8000)
    return Segments(Folder(tmp_path, 8000, min_duration=0.1), 2.0)


def test_parts_are_equal_and_make_up_the_recording(segments):
    assert segments.names == [
        "just.wav",
        *(f"long#er.wav#{start:.2f}" for start in (0, 2.25, 4.5, 6.75)),
        "short.wav",
    ]
    whole = segments.clips.read(1)
    parts = [segments.read(i) for i in (1, 3, 4)]
    for i, part in zip((1, 3, 4), parts, strict=True):
        assert len(part) == segments.num_samples(i) == 18000
        np.testing.assert_array_equal(part, whole[18000 * (i - 1) : 18000 * i])
    np.testing.assert_array_equal(segments.read(5), segments.clips.read(2))
    assert segments.recordings == ["just.wav", *["long#er.wav"] * 4, "short.wav"]


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_a_part_lies_where_its_file_has_it(tmp_path, speed):
    """Also a part of a part of a file that is played slower: seconds of the file, unplayed."""
    sound = 0.1 * np.random.default_rng(0).normal(size=8000 * 12)
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    (tmp_path / "list.csv").write_text("path,start,duration\na.wav,3,8\na.wav,0,1.5")
    clips = open_clips(tmp_path / "list.csv", round(8000 * speed), speed=speed)
    segments = Segments(clips, 2.0 / speed)
    assert len(segments) == 5
    for index in range(len(segments)):
        start = segments.start_seconds(index)
        first, count = round(start * 8000), segments.num_samples(index)
        assert segments.path(index) == tmp_path / "a.wav"
        np.testing.assert_allclose(segments.read(index), sound[first : first + count], atol=1e-7)


def test_a_silent_part_is_an_error(tmp_path):
    sound = np.zeros(8000 * 6)
    sound[:8000] = 0.5
    soundfile.write(tmp_path / "a.wav", sound, 8000)
    segments = Segments(Folder(tmp_path, 8000), 2.0)
    segments.read(0)
    with pytest.raises(InputError, match=r"a\.wav#2\.00: is silent"):
        segments.read(1)
