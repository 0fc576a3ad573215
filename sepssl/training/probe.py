"""A linear classifier on the encoder during training, which shows how much it has learned."""

import numpy as np
import threadpoolctl
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from sepssl.data.clips import Clips
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.data.splits import assigned_splits
from sepssl.errors import InputError
from sepssl.evaluation.scores import macro_scores
from sepssl.representation import Encoder
from sepssl.representation.embed import embed_recording
from sepssl.training.monitors import TrainingDiverged

PENALTY = 100.0  # of the ridge classifier, on standardised embeddings; our choice
MAX_SECONDS = 10.0  # of a recording, so that hour-long ones do not hold up training


class LinearProbe:
    """Fits a ridge classifier on some labelled clips and scores it on others.

    Meant for curves, not for results: no hyperparameter is tuned, and clips are few. For results,
    use `sepssl.evaluation`.

    Args:
        waveforms: of the clips, each [samples] at the encoder's sample rate.
        labels: multi-hot [clips, classes].
        scored: bool [clips], which clips it is scored on; it is fitted on the others. By default
            every second clip is scored.
    """

    def __init__(
        self, waveforms: list[np.ndarray], labels: np.ndarray, scored: np.ndarray | None = None
    ):
        self._waveforms = waveforms
        self._scored = np.arange(len(labels)) % 2 == 1 if scored is None else scored
        halves = labels[~self._scored], labels[self._scored]
        # Classes with positive and negative clips in both halves.
        usable = np.all([half.min(axis=0) < half.max(axis=0) for half in halves], axis=0)
        self._fit, self._score = (half[:, usable] for half in halves)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"probe_map": macro mAP}, or nothing if no class can be scored.

        Raises:
            TrainingDiverged: if the encoder gives NaN or infinity.
        """
        if not self._fit.size:
            return {}
        embeddings = np.stack([embed_recording(encoder, w) for w in self._waveforms])
        if not np.isfinite(embeddings).all():
            raise TrainingDiverged("embeddings of a labelled clip hold NaN or infinity")
        with threadpoolctl.threadpool_limits(1):
            scaler = StandardScaler().fit(embeddings[~self._scored])
            classifier = RidgeClassifier(alpha=PENALTY)
            targets = self._fit.ravel() if self._fit.shape[1] == 1 else self._fit
            classifier.fit(scaler.transform(embeddings[~self._scored]), targets)
            predictions = classifier.decision_function(scaler.transform(embeddings[self._scored]))
        predictions = predictions.reshape(self._score.shape)  # [clips] of a single class
        return {"probe_map": macro_scores(self._score, predictions).map}


def make_probe(clips: Clips | None, num_clips: int, test_fold: str = "") -> LinearProbe | None:
    """A probe on labelled clips, or None if there are none.

    It uses the first 10 s of clips spread evenly over the source; unreadable ones are left out. If
    the source has splits or folds of its own, the probe is fitted on training clips and scored on
    validation clips; otherwise every second clip is scored.

    Args:
        clips: labelled clips; None for no probe.
        num_clips: largest number of clips; 0 for no probe.
        test_fold: see `assigned_splits`.
    """
    if not num_clips or clips is None or clips.labels is None:
        return None
    roles = None
    if clips.splits is not None or clips.folds is not None:
        roles = assigned_splits(clips, test_fold)
    usable = (
        np.arange(len(clips))
        if roles is None
        else np.flatnonzero(np.isin(roles, ("train", "validation")))
    )
    if not len(usable):
        return None
    longest = round(MAX_SECONDS * clips.sample_rate)
    which = np.unique(np.linspace(0, len(usable) - 1, num_clips).round().astype(int))
    which = usable[which].tolist()

    def read(index: int) -> np.ndarray:
        return clips.read(index, 0, longest)

    sounds = read_ahead(value_or_error(read), which, workers=1 if clips.in_order else 2)
    readable = [
        (index, sound)
        for index, sound in zip(which, sounds, strict=True)
        if not isinstance(sound, InputError)
    ]
    if len(readable) < 2:
        return None
    kept, waveforms = zip(*readable, strict=True)
    scored = None if roles is None else roles[list(kept)] == "validation"
    if scored is not None and (scored.all() or not scored.any()):
        return None
    return LinearProbe(list(waveforms), clips.labels[list(kept)], scored)
