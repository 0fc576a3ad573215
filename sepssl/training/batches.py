"""What the two stages are trained on, as pure functions of the step."""

from collections.abc import Sequence

import numpy as np

from sepssl.data.pipeline import Shuffle
from sepssl.data.store import ClipStore
from sepssl.views.patches import draw_patch_starts


class RecordingBatches:
    """Random crops of recordings, for the separator.

    Args:
        mixtures: a store of one row per clip.
        clips: which of its clips, int [count].
        batch_size: crops in a global batch; even, since MixIT pairs neighbours.
        crop_samples: length of a crop.
        seed: of order and crops.
    """

    def __init__(
        self,
        mixtures: ClipStore,
        clips: np.ndarray,
        batch_size: int,
        crop_samples: int,
        seed: int,
    ):
        self.mixtures = mixtures
        self.clips = clips
        self.crop_samples = crop_samples
        self.seed = seed
        self.shuffle = Shuffle(len(clips), batch_size, seed)

    def names(self, step: int) -> list[str]:
        """Names of the clips in a step's batch."""
        names = self.mixtures.names
        return [names[i] for i in self.clips[self.shuffle.indices(step)]]

    def load(self, step: int) -> dict[str, np.ndarray]:
        """{"recordings": float32 [batch, crop_samples]}."""
        rng = np.random.default_rng([self.seed, step, 1])
        crops = []
        for index in self.clips[self.shuffle.indices(step)].tolist():
            spare = max(self.mixtures.num_samples(index) - self.crop_samples, 0)
            start = int(rng.integers(spare + 1))
            crops.append(self.mixtures.read(index, start, self.crop_samples)[0])
        return {"recordings": np.stack(crops)}


class ViewBatches:
    """Two patches of every clip, as mixture and as separated channels, for the encoder.

    One separator is drawn per clip, so that the batch holds one set of channels whatever the
    number of separators. All further choices are made in the graph, from the uniform numbers that
    come with the batch: the same views then result on any number of replicas.

    Args:
        mixtures: a store of one row per clip.
        channels: stores of separated channels of the same clips, one per separator, all with the
            same number of rows; may be empty.
        batch_size: clips in a global batch.
        patch_samples: length of a patch.
        max_distance_samples: largest distance of the two patches' starts.
        num_uniforms: numbers in [0, 1) per clip.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        mixtures: ClipStore,
        channels: Sequence[ClipStore],
        batch_size: int,
        patch_samples: int,
        max_distance_samples: int,
        num_uniforms: int,
        seed: int,
    ):
        self.mixtures = mixtures
        self.channels = list(channels)
        self.patch_samples = patch_samples
        self.max_distance_samples = max_distance_samples
        self.num_uniforms = num_uniforms
        self.seed = seed
        self.shuffle = Shuffle(len(mixtures), batch_size, seed)

    def names(self, step: int) -> list[str]:
        """Names of the clips in a step's batch."""
        names = self.mixtures.names
        return [names[i] for i in self.shuffle.indices(step)]

    def load(self, step: int) -> dict[str, np.ndarray]:
        """One global batch, float32.

        Returns:
            "mixtures" [batch, 2, patch_samples], "uniforms" [batch, num_uniforms] and, with
            separators, "channels" [batch, 2, sources, patch_samples].
        """
        rng = np.random.default_rng([self.seed, step, 2])
        indices = self.shuffle.indices(step)
        patch = self.patch_samples
        batch = {"mixtures": np.empty((len(indices), 2, patch), np.float32)}
        if self.channels:
            shape = (len(indices), 2, self.channels[0].rows, patch)
            batch["channels"] = np.empty(shape, np.float32)
        for i, index in enumerate(indices):
            store = self.channels[rng.integers(len(self.channels))] if self.channels else None
            starts = draw_patch_starts(
                rng, self.mixtures.num_samples(index), patch, self.max_distance_samples
            )
            for view, start in enumerate(starts):
                batch["mixtures"][i, view] = self.mixtures.read(index, start, patch)[0]
                if store is not None:
                    batch["channels"][i, view] = store.read(index, start, patch)
        batch["uniforms"] = rng.random((len(indices), self.num_uniforms), np.float32)
        return batch
