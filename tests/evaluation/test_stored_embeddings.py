import numpy as np
import pytest

from sepssl.data.clips import Clips
from sepssl.errors import InputError
from sepssl.evaluation.stored_embeddings import stored_statistics


@pytest.fixture
def clips():
    class Named(Clips):
        names = ("a.wav", "b/c.wav", "gr\u00fcn.wav", "missing.wav")

    return Named()


def test_windows_of_a_clip_wherever_they_stand(tmp_path, clips):
    names = ["b/c.wav", "a.wav", "b/c.wav", "gru\u0308n.wav", "other.wav"]
    vectors = np.array([[1, 2], [3, -4], [3, 2], [0, 0.5], [9, 9]], np.float16)
    np.savez(tmp_path / "x.npz", filenames=names, embeddings=vectors)
    found = stored_statistics(tmp_path / "x.npz", clips)
    assert found.indices == [0, 1, 2]
    a, c, green = found.statistics
    np.testing.assert_allclose(a, [[3, -4], [3, -4], [0, 0]])
    np.testing.assert_allclose(c, [[2, 2], [3, 2], [1, 0]])
    np.testing.assert_allclose(green[0], [0, 0.5])
    ((name, reason),) = found.skipped
    assert name == "missing.wav"
    assert reason == f"missing.wav: has no embedding in {tmp_path}/x.npz; expected one"


def test_one_vector_for_each_clip(tmp_path, clips):
    vectors = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "x.npz", names=["a.wav", "b/c.wav", "other.wav"], embeddings=vectors)
    found = stored_statistics(tmp_path / "x.npz", clips)
    np.testing.assert_array_equal(found.statistics, vectors[:2, None])


def test_rows_of_sepssl_embed_are_those_of_the_mixture_with_sound(tmp_path, clips):
    rows = [  # name, channel, vector
        ("a.wav", 0, [3, 4]),
        ("a.wav", 1, [7, 7]),
        ("a.wav", 0, [0, 0]),
        ("a.wav", 0, [1, 0]),
        ("b/c.wav", 0, [0, 0]),
    ]
    names, channels, vectors = zip(*rows, strict=True)
    starts = np.arange(5.0)
    np.savez(
        tmp_path / "x.npz",
        names=names,
        starts=starts,
        ends=starts + 1,
        channels=np.array(channels, np.int16),
        levels=np.zeros(5, np.float32),
        embeddings=np.array(vectors, np.float32),
    )
    found = stored_statistics(tmp_path / "x.npz", clips)
    assert found.indices == [0, 1]
    np.testing.assert_allclose(found.statistics[0], [[2, 2], [3, 4], [1, 2]])
    np.testing.assert_array_equal(found.statistics[1], np.zeros([3, 2]))


def test_what_cannot_be_used(tmp_path, clips):
    def refused(says, **arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError, match=says):
            stored_statistics(tmp_path / "x.npz", clips)

    refused("and none of the 4 clips, such as 'a.wav'", names=["x.wav"], embeddings=[[1.0]])
    refused(
        r"embeddings float64 \[1, 1\] for names \[2\]",
        names=["x.wav", "a.wav"],
        embeddings=[[1.0]],
    )
    refused(r"for names \[\]", filenames="a.wav", embeddings=[[1.0]])
    refused(r"embeddings float64 \[1, 0\]", names=["a.wav"], embeddings=[[]])
    refused("embeddings complex128", names=["a.wav"], embeddings=[[1j]])
    refused("x.npz: has NaN or infinity in an embedding of b.wav", names=["a.wav", "b.wav"],
            embeddings=[[1.0], [np.nan]])  # fmt: skip
    refused("holds vectors, names; expected an index", vectors=[[1.0]], names=["a.wav"])
    (tmp_path / "y.npz").write_text("text")
    with pytest.raises(InputError, match=r"y\.npz: cannot be read: "):
        stored_statistics(tmp_path / "y.npz", clips)
