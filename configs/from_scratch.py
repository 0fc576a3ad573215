"""The whole method from nothing on the built-in scenes, small enough for 2 CPU cores.

    sepssl-quickstart --workdir=/tmp/sepssl --from_scratch [--preset=smoke]

The default takes 3 to 7 minutes on 2 cores; the `smoke` preset under 3, and its numbers mean
nothing but that everything runs.
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small, separator_small


def get_config(preset: str = "default") -> ConfigDict:
    separator = separator_small.get_config()
    separator.data.update(num_clips=400, num_validation=20)
    separator.separator.update(
        bottleneck_channels=96, conv_channels=192, dilations_per_repeat=6, repeats=2
    )
    separator.train.update(
        steps=400, checkpoint_every=100, warmup_steps=30, state_steps=(0, 30, 100, 400)
    )
    encoder = encoder_small.get_config()
    encoder.data.update(num_clips=400)
    encoder.encoder.embedding_size = 256
    encoder.views.equalization_db = 12.0  # which helps on the built-in scenes
    encoder.train.update(
        steps=150, checkpoint_every=50, warmup_steps=30, state_steps=(150,), probe_clips=0
    )
    clips = {"train": 300, "validation": 100, "test": 200}
    if preset == "smoke":
        for stage in (separator, encoder):
            stage.data.update(num_clips=64, clip_seconds=2.0)
            stage.train.update(steps=20, batch_size=16, log_every=5, warmup_steps=2)
        separator.data.num_validation = 8
        separator.train.update(crop_seconds=2.0, state_steps=(0, 5, 20))
        separator.separator.update(
            bottleneck_channels=32, conv_channels=64, dilations_per_repeat=3, repeats=1
        )
        encoder.encoder.embedding_size = 64
        encoder.train.state_steps = (20,)
        clips = {"train": 60, "validation": 40, "test": 60}
    return ConfigDict(
        {
            "preset": preset,
            "separator": separator,
            "encoder": encoder,
            # Separators whose channels the views show: kept states, by step.
            "view_states": separator.train.state_steps[-1:],
            "evaluation": {"seed": 1, "clips": clips},
        }
    )
