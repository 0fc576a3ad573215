"""The separator of Google's released MixIT models, for accelerators: 9 million parameters.

    sepssl-train --config=configs/separator_audioset.py --workdir=/data/separator \
        --config.data.directory=/data/audioset

The network, loss and learning rate are those of the released models; crops of 10 s, 3 mixtures of
mixtures a step. Nobody has run this to its end yet.
"""

from ml_collections import ConfigDict

from sepssl.configs import separator_small


def get_config() -> ConfigDict:
    config = separator_small.get_config()
    config.data.clip_seconds = 10.0
    config.separator.update(
        num_sources=8,
        basis="learned",
        frame_length=40,
        hop=20,
        bottleneck_channels=256,
        conv_channels=512,
        dilations_per_repeat=8,
        repeats=4,
        unroll=False,
        mixture_consistency="predicted",
        normalize_input=False,
    )
    config.train.update(
        steps=3000000,
        batch_size=6,
        crop_seconds=10.0,
        learning_rate=1e-4,
        schedule="constant",
        warmup_steps=1000,
        log_every=100,
        checkpoint_every=5000,
        state_steps=(10000, 30000, 100000, 300000, 1000000, 3000000),
    )
    return config
