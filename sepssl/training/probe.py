"""A linear classifier on the encoder as it trains: how much of the labels it holds so far."""

import pathlib

import numpy as np
import threadpoolctl
from ml_collections import ConfigDict
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from sepssl.data.folder import LABELS_FILE, labelled_folder
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.sources import scene_config
from sepssl.errors import InputError
from sepssl.evaluation.scores import macro_scores
from sepssl.representation import Encoder
from sepssl.representation.embed import embed_recording

PENALTY = 100.0  # of the ridge classifier, on standardised embeddings; our choice
MAX_SECONDS = 10.0  # of a recording, so that hours among them do not stop the training


class LinearProbe:
    """Fits a ridge classifier on half of some labelled clips and scores it on the others.

    For curves, not for results: no hyperparameter is chosen, the clips are few. Results are
    `sepssl.evaluation`'s.

    Args:
        waveforms: of the clips, each [samples] at the encoder's sample rate.
        labels: multi-hot [clips, classes].
    """

    def __init__(self, waveforms: list[np.ndarray], labels: np.ndarray):
        self._waveforms = waveforms
        halves = labels[::2], labels[1::2]
        # Classes that some clips of either half have and some have not.
        usable = np.all([half.min(axis=0) < half.max(axis=0) for half in halves], axis=0)
        self._fit, self._score = (half[:, usable] for half in halves)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"probe_map": macro mAP}, or nothing if no class can be scored."""
        if not self._fit.size:
            return {}
        embeddings = np.stack([embed_recording(encoder, w) for w in self._waveforms])
        with threadpoolctl.threadpool_limits(1):
            scaler = StandardScaler().fit(embeddings[::2])
            classifier = RidgeClassifier(alpha=PENALTY)
            classifier.fit(scaler.transform(embeddings[::2]), self._fit)
            predictions = classifier.decision_function(scaler.transform(embeddings[1::2]))
        predictions = predictions.reshape(self._score.shape)  # [clips] of a single class
        return {"probe_map": macro_scores(self._score, predictions).map}


def make_probe(data: ConfigDict, num_clips: int) -> LinearProbe | None:
    """A probe on labelled clips of what the encoder trains on, or None where there are no labels.

    Of the built-in scenes it takes others than those trained on; of a folder with `labels.csv`,
    recordings spread evenly over it, the first 10 s of each. Those that cannot be read are left
    out; a `labels.csv` that cannot be used is named, and no reason to stop.

    Args:
        data: as `config.data`.
        num_clips: at most; 0 for no probe.
    """
    if not num_clips:
        return None
    if not data.directory:
        clips = SceneClips(scene_config(data), data.seed, "probe", num_clips)
        read = clips.read
    elif pathlib.Path(data.directory, LABELS_FILE).is_file():
        try:
            clips = labelled_folder(data.directory, data.sample_rate)
        except InputError as error:
            print(f"no linear probe: {error}", flush=True)
            return None
        longest = round(MAX_SECONDS * data.sample_rate)

        def read(index):
            return clips.read(index, 0, longest)

    else:
        return None
    which = np.unique(np.linspace(0, len(clips) - 1, num_clips).round().astype(int)).tolist()
    waveforms = read_ahead(value_or_error(read), which, workers=2)
    readable = [
        (index, waveform)
        for index, waveform in zip(which, waveforms, strict=True)
        if not isinstance(waveform, InputError)
    ]
    if len(readable) < 2:
        return None
    kept, waveforms = zip(*readable, strict=True)
    return LinearProbe(list(waveforms), clips.labels[list(kept)])
