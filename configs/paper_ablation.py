"""The paper's claims on the built-in scenes: a table of encoders over five seeds, with controls.

    sepssl-train --config=configs/paper_ablation.py --workdir=/tmp/ablation \
        [--config.only='mixture/mixture,mixture/channel']

Resumable cell by cell. Ends with `results.jsonl`, `table.md` and `figure.svg` in the folder.
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small, separator_small

MIXTURE_MIXTURE = {"mixture_mixture": 1.0, "mixture_channel": 0.0}
MIXTURE_CHANNEL = {"mixture_mixture": 0.0, "mixture_channel": 1.0}
CHANNEL_CHANNEL = {"mixture_channel": 0.0, "channel_channel": 1.0}
BOTH_KINDS = {"mixture_mixture": 0.0, "mixture_channel": 0.5, "channel_channel": 0.5}
SIMILARITY = {"similarity_weight": 1.0, "coincidence_weight": 0.0}
COINCIDENCE = {"similarity_weight": 0.0, "coincidence_weight": 1.0}
EQUALIZATION = {"equalization_db": 12.0}


def get_config() -> ConfigDict:
    separator = separator_small.get_config()
    separator.data.num_clips = 4000
    separator.train.update(steps=3000, state_steps=(0, 100, 500, 3000))
    encoder = encoder_small.get_config()
    encoder.data.num_clips = 4000
    encoder.encoder.width = 16
    encoder.train.update(steps=1500, checkpoint_every=500, state_steps=(1500,), probe_clips=0)
    return ConfigDict(
        {
            "task": "ablation",
            "seeds": (1, 2, 3, 4, 5),
            "only": "",  # rows to make, separated by commas; "" for all
            "results": "",  # file of finished cells; "" for results.jsonl in the folder
            "separator": separator,
            # Kept states of the separator, by name.
            "states": {"untrained": 0, "early": 100, "middle": 500, "late": 3000},
            "encoder": encoder,
            "evaluation": {"train": 1500, "validation": 600, "test": 1000},  # scenes
            "rows": (
                {"name": "log-mel statistics", "baseline": "log_mel_statistics"},
                {"name": "untrained encoder", "baseline": "untrained_encoder"},
                {"name": "mixture/mixture", "views": MIXTURE_MIXTURE},
                {"name": "mixture/channel", "views": MIXTURE_CHANNEL, "separators": ("late",)},
            ),
            "comparisons": (("mixture/channel", "mixture/mixture"),),
        }
    )
