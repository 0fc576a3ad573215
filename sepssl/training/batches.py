"""Training batches of both stages, as pure functions of the step."""

from collections.abc import Sequence

import numpy as np

from sepssl.data.channel_shards import ChannelShards
from sepssl.data.store import ClipStore
from sepssl.training.input import Shuffle, part_of
from sepssl.views.patches import draw_patch_starts


class RecordingBatches:
    """Random crops of recordings, for the separator, and of mixtures with their sources.

    Args:
        recordings: a store of clips whose row 0 is the recording, and whose other rows, if any, are
            its true sources.
        clips: which of its clips to use, int [count].
        batch_size: clips in a global batch.
        crop_samples: length of a crop.
        seed: of all that is drawn.
        num_mixtures: neighbours that MixIT adds up; with `single_mixture_fraction`, `batch_size`
            less the supervised clips is a multiple of it.
        gain_range_db: (lowest, highest) gain of a recording in a mixture of mixtures, drawn
            uniformly.
        single_mixture_fraction: fraction (0 to 1) of the mixtures of mixtures that consist of one
            recording, the others being silent.
        num_sources: rows of "sources"; clips with fewer get silent ones.
        supervised_clips: how many clips at the end of a batch come with their sources.
        groups: of each clip of the store, the recording it is a part of; see `Shuffle`.
        num_uniforms: numbers drawn for each recording.
        reversed_fraction: fraction (0 to 1) of the crops that are played backwards, with their
            sources.
    """

    def __init__(
        self,
        recordings: ClipStore,
        clips: np.ndarray,
        batch_size: int,
        crop_samples: int,
        seed: int,
        num_mixtures: int = 2,
        gain_range_db: tuple[float, float] = (0.0, 0.0),
        single_mixture_fraction: float = 0.0,
        num_sources: int = 0,
        supervised_clips: int = 0,
        groups: Sequence[str] | None = None,
        num_uniforms: int = 0,
        reversed_fraction: float = 0.0,
    ):
        self.recordings = recordings
        self.clips = clips
        self.crop_samples = crop_samples
        self.seed = seed
        self.num_mixtures = num_mixtures
        self.gain_range_db = gain_range_db
        self.single_mixture_fraction = single_mixture_fraction
        self.num_sources = num_sources
        self.unsupervised_clips = batch_size - supervised_clips
        self.num_uniforms = num_uniforms
        self.reversed_fraction = reversed_fraction
        groups = None if groups is None else [groups[i] for i in clips]
        self.shuffle = Shuffle(len(clips), batch_size, seed, groups)

    def names(self, step: int) -> list[str]:
        """Names of the clips in a step's batch."""
        names = self.recordings.names
        return [names[i] for i in self.clips[self.shuffle.indices(step)]]

    def load(self, step: int, worker: int = 0, workers: int = 1) -> dict[str, np.ndarray]:
        """One global batch, float32, or a worker's part of it, whose sounds alone are read.

        Returns:
            "recordings" [unsupervised clips, crop_samples], and "uniforms" [unsupervised clips,
            num_uniforms] in [0, 1); "mixtures" [supervised clips, crop_samples] and "sources"
            [supervised clips, num_sources, crop_samples]. Empty ones are absent.
        """
        rng = np.random.default_rng([self.seed, step, 1])
        indices = self.clips[self.shuffle.indices(step)].tolist()
        # Of a generator of its own: nothing else depends on the fraction.
        backwards = np.random.default_rng([self.seed, step, 3]).random(len(indices))
        crops = []  # (clip, start, whether backwards)
        for index, number in zip(indices, backwards, strict=True):
            spare = max(self.recordings.num_samples(index) - self.crop_samples, 0)
            start = int(rng.integers(spare + 1))
            crops.append((index, start, bool(number < self.reversed_fraction)))
        batch = {}
        if count := self.unsupervised_clips:
            own = part_of(count, worker, workers)
            recordings = np.stack([self._read(*crop)[0] for crop in crops[:count][own]])
            gains = 10 ** (rng.uniform(*self.gain_range_db, count) / 20)
            single = rng.random(count // self.num_mixtures) < self.single_mixture_fraction
            if single.any():
                gains.reshape(-1, self.num_mixtures)[single, 1:] = 0.0
            batch["recordings"] = recordings * gains[own, None].astype(np.float32)
            if self.num_uniforms:
                batch["uniforms"] = rng.random((count, self.num_uniforms), np.float32)[own]
        if supervised := crops[count:]:
            own = part_of(len(supervised), worker, workers)
            clips = [self._read(*crop) for crop in supervised[own]]
            batch["mixtures"] = np.stack([clip[0] for clip in clips])
            batch["sources"] = np.stack(
                [np.pad(true, ((0, self.num_sources - len(true)), (0, 0))) for _, *true in clips]
            )
        return batch

    def _read(self, clip: int, start: int, backwards: bool) -> np.ndarray:
        rows = self.recordings.read(clip, start, self.crop_samples)
        return rows[:, ::-1] if backwards else rows


class ViewBatches:
    """Two patches of every clip, as mixture and as separated channels, for the encoder.

    One separator is drawn per clip, so that the batch holds one set of channels whatever the
    number of separators. All further choices are made in the graph, from the uniform numbers that
    come with the batch, so that views are the same on any number of replicas.

    Args:
        mixtures: a store with one row per clip.
        channels: stores of separated channels of the same clips, or corpora of them, one per
            separator; may be empty. Clips with fewer rows than others get silent ones.
        batch_size: clips in a global batch.
        patch_samples: length of a patch.
        max_distance_samples: largest distance between the starts of the two patches.
        overlap: whether the patches may share samples; see `draw_patch_starts`.
        num_uniforms: numbers in [0, 1) per clip.
        seed: of everything that is drawn.
        labels: of the clips, [clips, classes]; None if they have none.
        online_separators: number of separators in the graph, for which clips are loaded instead of
            patches; 0 for patches.
        clip_samples: length of those clips, which contain both patches.
        groups: of each clip, the recording it is a part of; see `Shuffle`.
    """

    def __init__(
        self,
        mixtures: ClipStore,
        channels: Sequence[ClipStore | ChannelShards],
        batch_size: int,
        patch_samples: int,
        max_distance_samples: int,
        overlap: bool,
        num_uniforms: int,
        seed: int,
        labels: np.ndarray | None = None,
        online_separators: int = 0,
        clip_samples: int = 0,
        groups: Sequence[str] | None = None,
    ):
        self.mixtures = mixtures
        self.channels = list(channels)
        self.labels = labels
        self.online_separators = online_separators
        self.clip_samples = clip_samples
        self._rows = max(
            (store.num_rows(i) for store in self.channels for i in range(len(store))), default=0
        )
        self.patch_samples = patch_samples
        self.max_distance_samples = max_distance_samples
        self.overlap = overlap
        self.num_uniforms = num_uniforms
        self.seed = seed
        self.shuffle = Shuffle(len(mixtures), batch_size, seed, groups)

    def names(self, step: int) -> list[str]:
        """Names of the clips in a step's batch."""
        names = self.mixtures.names
        return [names[i] for i in self.shuffle.indices(step)]

    def load(self, step: int, worker: int = 0, workers: int = 1) -> dict[str, np.ndarray]:
        """One global batch, float32, or a worker's part of it, whose sounds alone are read.

        Returns:
            "starts" int32 [batch, 2] of the patches in their clips, in samples, "uniforms" [batch,
            num_uniforms] and "mixtures" [batch, 2, patch_samples]; with separators, "separator"
            int32 [batch], the one drawn, and "channels" [batch, 2, sources, patch_samples]; with
            labels, "labels" [batch, classes]. For separation in the graph, "clips" [batch,
            clip_samples] and "window" int32 [batch], where they start, in place of mixtures and
            channels.
        """
        rng = np.random.default_rng([self.seed, step, 2])
        indices = self.shuffle.indices(step)
        separators = len(self.channels) or self.online_separators
        drawn, starts = [], []
        for index in indices:
            drawn.append(rng.integers(separators) if separators else 0)
            starts.append(
                draw_patch_starts(
                    rng,
                    self.mixtures.num_samples(index),
                    self.patch_samples,
                    self.max_distance_samples,
                    self.overlap,
                )
            )
        uniforms = rng.random((len(indices), self.num_uniforms), np.float32)
        own = part_of(len(indices), worker, workers)
        indices, drawn, starts = indices[own], drawn[own], starts[own]
        batch: dict[str, np.ndarray] = {"starts": np.array(starts, np.int32)}
        if separators:
            batch["separator"] = np.array(drawn, np.int32)
        if self.online_separators:
            batch |= self._clips(indices, batch["starts"])
        else:
            batch |= self._patches(indices, batch["starts"], drawn)
        batch["uniforms"] = uniforms[own]
        if self.labels is not None:
            batch["labels"] = self.labels[indices].astype(np.float32)
        return batch

    def _patches(self, indices, starts, drawn) -> dict[str, np.ndarray]:
        patch = self.patch_samples
        mixtures = np.empty((len(indices), 2, patch), np.float32)
        channels = np.zeros((len(indices), 2, self._rows, patch), np.float32)
        for i, index in enumerate(indices):
            for view, start in enumerate(starts[i].tolist()):
                mixtures[i, view] = self.mixtures.read(index, start, patch)[0]
                if self.channels:
                    rows = self.channels[drawn[i]].read(index, start, patch)
                    channels[i, view, : len(rows)] = rows
        return {"mixtures": mixtures} | ({"channels": channels} if self.channels else {})

    def _clips(self, indices, starts) -> dict[str, np.ndarray]:
        # The patches in the middle, as far as the recording reaches.
        middle = (starts.min(axis=1) + starts.max(axis=1) + self.patch_samples) // 2
        spare = [self.mixtures.num_samples(index) - self.clip_samples for index in indices]
        window = np.clip(middle - self.clip_samples // 2, 0, np.maximum(spare, 0)).astype(np.int32)
        clips = [
            self.mixtures.read(index, start, self.clip_samples)[0]
            for index, start in zip(indices, window.tolist(), strict=True)
        ]
        return {"clips": np.stack(clips), "window": window}
