import numpy as np
import pytest
import soundfile

from sepssl.data.folder import list_audio, without_sources
from sepssl.data.fuss import FussFolder
from sepssl.errors import InputError


def write_example(folder, name, sources, rate=16000):
    """A mixture of sources [count, samples] as FUSS has it."""
    (folder / f"{name}_sources").mkdir(parents=True)
    soundfile.write(folder / f"{name}.wav", sources.sum(axis=0), rate, subtype="FLOAT")
    for i, source in enumerate(sources):
        file = folder / f"{name}_sources" / f"foreground{i}_sound.wav"
        soundfile.write(file, source, rate, subtype="FLOAT")


@pytest.fixture
def sources():
    return 0.1 * np.random.default_rng(0).normal(size=(3, 8000)).astype(np.float32)


def test_mixtures_come_with_their_sources(sources, tmp_path):
    sources[2] = 0.0  # a silent source is none that is broken
    write_example(tmp_path / "sub", "example0", sources)
    write_example(tmp_path, "example1", sources[:1])
    clips = FussFolder(tmp_path, 16000)
    assert clips.names == ["example1.wav", "sub/example0.wav"]
    mixture, found = clips.read_with_sources(1)
    np.testing.assert_array_equal(mixture, clips.read(1))
    np.testing.assert_allclose(mixture, sources.sum(axis=0), atol=1e-7)
    np.testing.assert_array_equal(found, sources)
    np.testing.assert_array_equal(clips.read_with_sources(0)[1], sources[:1])
    assert len(without_sources(list_audio(tmp_path))) == 2


@pytest.mark.parametrize("rate", [8000, 11025])
def test_sources_add_up_at_another_rate(sources, tmp_path, rate):
    write_example(tmp_path, "example", sources)
    clips = FussFolder(tmp_path, rate)
    mixture, found = clips.read_with_sources(0)
    assert len(mixture) == clips.num_samples(0)
    np.testing.assert_allclose(found.sum(axis=0), mixture, atol=1e-5)


def test_mixtures_whose_sources_cannot_be_used_are_left_out(sources, tmp_path):
    for name in ("good", "short", "empty", "broken"):
        write_example(tmp_path, name, sources)
    soundfile.write(tmp_path / "short_sources" / "foreground1_sound.wav", sources[0, :4000], 16000)
    for file in (tmp_path / "empty_sources").iterdir():
        file.unlink()
    (tmp_path / "broken_sources" / "foreground0_sound.wav").write_bytes(b"no sound")
    clips = FussFolder(tmp_path, 16000)
    assert clips.names == ["good.wav"]
    reasons = dict(clips.skipped)
    assert set(reasons) == {"broken.wav", "empty.wav", "short.wav"}
    assert "is 0.250 s long; expected the 0.500 s of its mixture" in reasons["short.wav"]
    assert "empty_sources: holds no sound file" in reasons["empty.wav"]


def test_a_folder_without_sources_is_refused(sources, tmp_path):
    soundfile.write(tmp_path / "a.wav", sources[0], 16000)
    with pytest.raises(InputError, match="holds no mixture with sources"):
        FussFolder(tmp_path, 16000)
    write_example(tmp_path, "bad", sources)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"bad\.wav: is not readable as sound"):
        FussFolder(tmp_path, 16000)
