"""A separator trained for a few steps: shows that everything runs, in under a minute.

sepssl-train --config=configs/separator_smoke.py --workdir=/tmp/separator_smoke
"""

from ml_collections import ConfigDict

from sepssl.configs import separator_small


def get_config() -> ConfigDict:
    config = separator_small.get_config()
    config.data.update(num_clips=32, num_validation=8, clip_seconds=2.0)
    config.separator.update(
        bottleneck_channels=32, conv_channels=64, dilations_per_repeat=3, repeats=1
    )
    config.train.update(
        steps=20,
        batch_size=8,
        crop_seconds=2.0,
        log_every=5,
        checkpoint_every=10,
        warmup_steps=2,
        state_steps=(0, 5, 20),
    )
    return config
