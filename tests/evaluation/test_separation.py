import numpy as np
import pytest
import soundfile

from sepssl.data.mixtures import Mixtures
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.evaluation.separation import evaluate_separator, format_scores
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.separation.metrics import SeparationScores
from sepssl.separation.oracle import oracle_masks


@pytest.fixture(scope="module")
def separator():
    return Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1), "uniform")


def test_scenes_are_scored_beside_the_mixture_and_oracles(separator):
    result, skipped = evaluate_separator(separator, "scenes", num_clips=6, seed=3)
    assert (result["clips"], skipped) == (6, [])
    clips = SceneClips(SceneConfig(), 3, "test", 6)
    expected = {name: SeparationScores() for name in ("separator", "oracle ratio mask")}
    for i in range(6):
        scene = clips.scene(i)
        sources = scene.sources[: scene.num_sources]
        estimates = separator.predict_on_batch(scene.mixture[None])[0]
        expected["separator"].add(scene.mixture, sources, estimates)
        masked = oracle_masks(scene.mixture, sources, 16000)["ratio"]
        expected["oracle ratio mask"].add(scene.mixture, sources, masked)
    for name, scores in expected.items():
        for key in result["scores"][name]:
            value = scores.result()[key]
            assert result["scores"][name][key] == pytest.approx(value, abs=1e-3)
    assert result["scores"]["mixture"]["MSi"] == pytest.approx(0.0, abs=1e-6)
    assert result["scores"]["oracle binary mask"]["MSi"] > 8
    assert np.isfinite(result["MoMi"])


def test_mixed_scenes_of_a_fold_are_scored(separator, tmp_path):
    lines = ["filename,labels,fold"]
    for number in range(8):
        sound = 0.1 * np.random.default_rng(number).normal(size=16000)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16000)
        lines.append(f"{number}.wav,class{number % 4},{number // 4}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    spec = f"mix:{tmp_path}"
    result, skipped = evaluate_separator(separator, spec, num_clips=6, seed=2, test_fold="0")
    assert not skipped
    clips = open_clips(spec, 16000, mixtures=Mixtures({"test": 6}, 2, folds={"test": ("0",)}))
    expected = SeparationScores()
    for mixture, sources in map(clips.read_with_sources, range(6)):
        expected.add(mixture, sources, separator.predict_on_batch(mixture[None])[0])
    for key, value in expected.result().items():
        assert result["scores"]["separator"][key] == pytest.approx(value, abs=1e-3)
    assert result["clips"] == 6
    assert np.isfinite(result["MoMi"])
    soundfile.write(tmp_path / "1.wav", np.zeros(16000), 16000)
    result, skipped = evaluate_separator(separator, spec, num_clips=6, seed=2, test_fold="0")
    assert result["clips"] == 6
    assert [entry.name for entry in skipped] == ["1.wav"]


def test_recordings_without_sources_have_momi_only(separator, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.normal(size=8000 + i), 16000)
    (tmp_path / "broken.wav").write_text("no sound")
    result, skipped = evaluate_separator(separator, str(tmp_path))
    assert set(result) == {"clips", "MoMi"}
    assert result["clips"] == 3
    assert len(skipped) == 1


def test_what_cannot_be_scored_is_an_error(separator, tmp_path):
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).uniform(size=8000), 16000)
    with pytest.raises(InputError, match=r"0\.wav: has 1 clip without true sources, and the sep"):
        evaluate_separator(separator, str(tmp_path / "0.wav"))
    single = Separator(1, STFTBasis(64, 32), TDCN(8, 12, 2, 1), "uniform")
    with pytest.raises(
        InputError, match=r"has 2 clips without .* the separator 1 output; expected"
    ):
        evaluate_separator(single, str(tmp_path))


def test_a_fuss_folder_is_scored(separator, tmp_path):
    sources = 0.1 * np.random.default_rng(0).normal(size=(2, 8000))
    (tmp_path / "a_sources").mkdir()
    soundfile.write(tmp_path / "a.wav", sources.sum(axis=0), 16000)
    for n in (0, 1):
        soundfile.write(tmp_path / "a_sources" / f"{n}.wav", sources[n], 16000)
    result, _ = evaluate_separator(separator, str(tmp_path))
    assert set(result["scores"]["separator"]) >= {"MSi", "SI-SNRi_2", "under", "equal", "over"}
    assert "MoMi" not in result  # there is no second recording to mix it with
    assert result["scores"]["oracle ratio mask"]["MSi"] > 0


def test_a_mixture_of_silent_sources_is_skipped(separator, tmp_path):
    for name, level in (("a", 0.1), ("b", 0.0)):
        sources = level * np.random.default_rng(0).normal(size=(2, 8000))
        (tmp_path / f"{name}_sources").mkdir()
        soundfile.write(tmp_path / f"{name}.wav", sources.sum(axis=0) + 0.01, 16000)
        for n in (0, 1):
            soundfile.write(tmp_path / f"{name}_sources" / f"{n}.wav", sources[n], 16000)
    result, skipped = evaluate_separator(separator, str(tmp_path))
    assert skipped == [("b.wav", "b.wav: all of its sources are silent; expected one that sounds")]
    assert set(result["scores"]["mixture"]) == {"MSi", "SI-SNRi_2"}


def test_a_folder_of_nothing_is_refused(separator, tmp_path):
    with pytest.raises(InputError, match="holds no sound file"):
        evaluate_separator(separator, str(tmp_path))


def test_the_table_reads():
    scores = {"separator": {"1S": 9.96, "MSi": 5.0, "under": 0.25}, "mixture": {"MSi": -1e-13}}
    lines = format_scores(scores).splitlines()
    assert [line.split() for line in lines] == [
        ["1S", "MSi", "under"],
        ["separator", "10.0", "5.0", "25", "%"],
        ["mixture", "-", "0.0", "-"],
    ]
    assert len({len(line) for line in lines}) == 1
