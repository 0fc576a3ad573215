"""The paper's claims on the built-in scenes: a table of encoders over five seeds, with controls.

    sepssl-train --config=configs/paper_ablation.py --workdir=/tmp/ablation \
        [--config.only='mixture/mixture;mixture/channel']

A seed draws everything anew: scenes, separator, encoder, test scenes. The table takes about 8 hours
on 2 cores and goes on where it was stopped, cell by cell. It ends with `results.jsonl`, `table.md`
and `figure.svg` in the folder.

Chosen on seed 0, which is in no row, each by a run or two of mixture/channel: 1,500 of 1,500 and
4,000 steps (the longer one was better, and is too long for a table), learning rate 2e-3 of 1e-3,
2e-3 and 4e-3, temperature 0.2 of 0.1 and 0.2 (equal), SpecAugment on, a floor of -10 dB of -30 and
-10. The equalised rows were added when seed 1 had shown what equalisation does for mixture/mixture;
the rows "every channel" when all others were there, since the first control, with the floors of the
trained separators, had turned out to be one fifth mixture/mixture.
"""

from typing import Any

from ml_collections import ConfigDict

from sepssl.configs import encoder_small, separator_small

# Channels further below the loudest one or the mixture are mostly what a separator left over.
FLOOR = {"channel_floor_db": -10.0, "mixture_floor_db": -10.0}
# An untrained separator's equal channels lie 12 dB below the mixture. Under the floors above, a
# fifth of its pairs would show the mixture instead.
EVERY_CHANNEL = {"channel_floor_db": -30.0, "mixture_floor_db": -30.0}
MIXTURE_MIXTURE = {"mixture_mixture": 1.0, "mixture_channel": 0.0}
MIXTURE_CHANNEL = {"mixture_mixture": 0.0, "mixture_channel": 1.0, **FLOOR}
CHANNEL_CHANNEL = {"mixture_channel": 0.0, "channel_channel": 1.0, **FLOOR}
BOTH_KINDS = {"mixture_channel": 0.5, "channel_channel": 0.5, **FLOOR}
SIMILARITY = {"similarity_weight": 1.0, "coincidence_weight": 0.0}
COINCIDENCE = {"similarity_weight": 0.0, "coincidence_weight": 1.0}
EQUALIZATION = {"equalization_db": 12.0}
EXAMPLE_MIXING = {"example_mixing": 0.5}
NO_MASKS = {"time_masks": 0, "frequency_masks": 0}
LONG = {"steps": 8000, "state_steps": (8000,)}
LATE = ("late",)
STATES = ("early", "middle", "late")


def get_config() -> ConfigDict:
    separator = separator_small.get_config()
    separator.data.num_clips = 4000
    separator.train.update(steps=3000, state_steps=(0, 100, 500, 3000))
    encoder = encoder_small.get_config()
    encoder.data.num_clips = 4000
    # As the published table.
    encoder.encoder.update(width=16, cover_end=False, normalize_level="none")
    encoder.views.update(EVERY_CHANNEL, equalization_db=0.0)
    encoder.train.update(
        steps=1500, learning_rate=2e-3, checkpoint_every=500, state_steps=(1500,), probe_clips=0
    )
    return ConfigDict(
        {
            "task": "ablation",
            "seeds": (1, 2, 3, 4, 5),
            "only": "",  # rows to make, with ; between them; "" for all
            "results": "",  # file of finished cells; "" for results.jsonl in the folder
            "separator": separator,
            # Kept states of the separator, by name.
            "states": {"untrained": 0, "early": 100, "middle": 500, "late": 3000},
            "encoder": encoder,
            "evaluation": {"train": 1500, "validation": 600, "test": 1000},  # scenes
            "rows": rows(),
            "comparisons": COMPARISONS,
        }
    )


def rows() -> tuple[dict, ...]:
    """Joint objective and all seeds unless a row says otherwise."""
    mixture_mixture: dict[str, Any] = {"views": MIXTURE_MIXTURE}
    mixture_channel = {"views": MIXTURE_CHANNEL, "separators": LATE}
    several = {"views": MIXTURE_CHANNEL, "separators": STATES}
    channel_channel = {"views": CHANNEL_CHANNEL, "separators": LATE}
    both_kinds = {"views": BOTH_KINDS, "separators": LATE}
    carrying: dict[str, dict[str, Any]] = {
        # baselines and controls
        "log-mel statistics": {"baseline": "log_mel_statistics"},
        "untrained encoder": {"baseline": "untrained_encoder"},
        "supervised": {**mixture_mixture, "task": "supervised"},
        "mixture/mixture": mixture_mixture,
        "mixture/mixture, equalised": {"views": MIXTURE_MIXTURE | EQUALIZATION},
        "mixture/channel, untrained separator": {**mixture_channel, "separators": ("untrained",)},
        # claims 1 and 2
        "mixture/channel": mixture_channel,
        "mixture/channel, middle state": {**mixture_channel, "separators": ("middle",)},
        "mixture/channel, early state": {**mixture_channel, "separators": ("early",)},
        "mixture/channel, true sources": {**mixture_channel, "separators": ("true_sources",)},
        # claim 3
        "several states": several,
        "several states, similarity": {**several, "objective": SIMILARITY},
        "several states, coincidence": {**several, "objective": COINCIDENCE},
    }
    control = "mixture/channel, untrained separator, every channel"
    carrying[control] = {"views": MIXTURE_CHANNEL | EVERY_CHANNEL, "separators": ("untrained",)}
    # Is there anything in separation that a random change of colour does not give?
    for name in ("mixture/channel, untrained separator", control, "mixture/channel",
                 "several states"):  # fmt: skip
        views = carrying[name]["views"] | EQUALIZATION
        carrying[f"{name}, equalised"] = {**carrying[name], "views": views}
    others: dict[str, dict[str, Any]] = {
        "channel/channel": channel_channel,
        "both kinds": both_kinds,
    }
    for name, row in {
        "mixture/mixture": mixture_mixture,
        "mixture/channel": mixture_channel,
        "channel/channel": channel_channel,
        "both kinds": both_kinds,
    }.items():
        others[f"{name}, similarity"] = {**row, "objective": SIMILARITY}
        others[f"{name}, coincidence"] = {**row, "objective": COINCIDENCE}
    for name, row in {
        "mixture/mixture": mixture_mixture,
        "mixture/channel": mixture_channel,
    }.items():
        others[f"{name}, example mixing"] = {**row, "views": row["views"] | EXAMPLE_MIXING}
        others[f"{name}, no SpecAugment"] = {**row, "views": row["views"] | NO_MASKS}
    long = {
        f"{name}, 8,000 steps": {**carrying[name], "train": LONG}
        for name in ("mixture/mixture, equalised", "several states, equalised", "supervised")
    }
    return (
        *({"name": name, **row} for name, row in carrying.items()),
        *({"name": name, "seeds": 1, **row} for name, row in (long | others).items()),
    )


COMPARISONS = (
    # Does it help to see channels? To see those of a separator that has learned something?
    ("mixture/channel", "mixture/mixture"),
    ("mixture/channel, untrained separator, every channel", "mixture/mixture"),
    ("mixture/channel", "mixture/channel, untrained separator, every channel"),
    ("mixture/channel", "mixture/channel, untrained separator"),
    ("mixture/channel", "mixture/mixture, equalised"),
    ("mixture/channel, equalised", "mixture/mixture, equalised"),
    ("mixture/channel, equalised", "mixture/channel, untrained separator, equalised"),
    (
        "mixture/channel, equalised",
        "mixture/channel, untrained separator, every channel, equalised",
    ),
    # Would it help if the separator were perfect?
    ("mixture/channel, true sources", "mixture/channel, untrained separator, every channel"),
    ("mixture/channel, true sources", "mixture/channel"),
    # Are all states of use?
    ("mixture/channel, middle state", "mixture/mixture"),
    ("mixture/channel, early state", "mixture/mixture"),
    ("mixture/channel, middle state", "mixture/channel, untrained separator, every channel"),
    ("mixture/channel, early state", "mixture/channel, untrained separator, every channel"),
    ("mixture/channel, early state", "mixture/channel, untrained separator"),
    ("mixture/channel, early state", "mixture/channel"),
    # Are several states and both objectives best?
    ("several states", "mixture/channel"),
    ("several states", "mixture/channel, untrained separator, every channel"),
    ("several states", "mixture/channel, untrained separator"),
    ("several states", "several states, similarity"),
    ("several states", "several states, coincidence"),
    ("several states, equalised", "mixture/mixture, equalised"),
    ("several states, equalised", "mixture/channel, equalised"),
    ("several states, equalised", "log-mel statistics"),
    ("several states, equalised, 8,000 steps", "mixture/mixture, equalised, 8,000 steps"),
    ("several states, equalised, 8,000 steps", "log-mel statistics"),
    ("supervised, 8,000 steps", "several states, equalised, 8,000 steps"),
)
