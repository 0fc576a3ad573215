"""The paper's claims on scenes mixed from real sounds: a table like that of `paper_ablation`.

    sepssl-train --config=real_ablation --config.directory=mix:ESC50 --workdir=/tmp/real \
        [--config.only='mixture/mixture;mixture/channel']

ESC50 is a folder of isolated sounds with a column `fold`. A seed draws everything anew, and moves
the folds on: seed 0 trains on folds 1 to 3 and is tested on 5, seed 1 trains on 2 to 4 and is
tested on 1. The validation fold is for the classifiers' settings. A cell takes about 10 minutes on
2 cores, one of 6,000 steps half an hour, the separator of a seed 40; the table goes on where it was
stopped, cell by cell.

The settings are those of `paper_ablation`; none was chosen on these scenes. The separators that
come with the package have heard folds 1 to 4, so their rows have seed 0 only.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sepssl.configs import paper_ablation
from sepssl.configs.paper_ablation import (
    EQUALIZATION,
    EVERY_CHANNEL,
    MIXTURE_CHANNEL,
    MIXTURE_MIXTURE,
)

STEPS = (30, 100, 300, 1000, 3000)  # of the seed's separator


def get_config() -> ConfigDict:
    config = paper_ablation.get_config()
    directory = FieldReference("mix:")
    for part in (config.separator, config.encoder):
        part.data.directory = directory
    config.separator.train.update(checkpoint_every=250, state_steps=())
    config.encoder.encoder.cover_end = True
    config.update(
        {
            "directory": directory,  # "mix:FOLDER", of both stages
            "folds": ("1", "2", "3", "4", "5"),
            "retrieval": {
                "scenes": 600,
                # The part of a name that sounds cut from one recording share.
                "recording": r"\d-(\d+)-[A-Z]-\d+",
                "state": "step 3000",  # of the separator that makes the scenes' channels
            },
            "seeds": (0, 1, 2, 3, 4),
            "evaluation": {"train": 1500, "validation": 600, "test": 1000},  # scenes
            "comparisons": COMPARISONS,
        }
    )
    # Kept states of the seed's separator by their step, other separators by name or file.
    config.states = ConfigDict(
        {"untrained": 0, "small": "small", "small-mixit": "small-mixit"}
        | {f"step {step}": step for step in STEPS}
    )
    config.rows = rows()
    return config


def rows() -> tuple[dict, ...]:
    """Joint objective; all seeds unless a row says otherwise."""
    untrained = {"views": MIXTURE_CHANNEL | EVERY_CHANNEL, "separators": ("untrained",)}
    trained = {"views": MIXTURE_CHANNEL, "separators": ("step 3000",)}
    true_sources = {"views": MIXTURE_CHANNEL, "separators": ("true_sources",)}
    mixture_mixture: dict[str, Any] = {"views": MIXTURE_MIXTURE}
    table: dict[str, dict[str, Any]] = {
        "log-mel statistics": {"baseline": "log_mel_statistics"},
        "untrained encoder": {"baseline": "untrained_encoder"},
        "supervised": {**mixture_mixture, "task": "supervised"},
        "mixture/mixture": mixture_mixture,
        "mixture/channel, untrained separator": untrained,
    }
    for step in STEPS[:-1]:
        table[f"mixture/channel, {step} steps"] = {**trained, "separators": (f"step {step}",)}
    table["mixture/channel"] = trained
    for name in ("small", "small-mixit"):
        table[f"mixture/channel, {name}"] = {**trained, "separators": (name,), "seeds": 1}
    table["mixture/channel, true sources"] = true_sources
    for name in (
        "mixture/mixture",
        "mixture/channel, untrained separator",
        "mixture/channel",
        "mixture/channel, small-mixit",
        "mixture/channel, true sources",
    ):
        views = table[name]["views"] | EQUALIZATION
        table[f"{name}, equalised"] = {**table[name], "views": views}
    # Over the encoder's size, the hours of audio that it hears, and how long it learns.
    long = {"train": {"steps": 6000, "state_steps": (6000,)}}
    for name in (
        "mixture/mixture",
        "mixture/channel, untrained separator",
        "mixture/channel",
        "mixture/channel, small-mixit",
        "mixture/channel, true sources",
    ):
        wide, few = {"encoder": {"width": 32}}, {"data": {"num_clips": 1000}}
        table[f"{name}, twice as wide"] = {**table[name], **wide, "seeds": 1}
        table[f"{name}, 1,000 scenes"] = {**table[name], **few, "seeds": 1}
        table[f"{name}, 6,000 steps"] = {**table[name], **long, "seeds": 1}
    return tuple({"name": name, **row} for name, row in table.items())


COMPARISONS = (
    # Does it help to see channels? To see those of a separator that has learned something?
    ("mixture/channel", "mixture/mixture"),
    ("mixture/channel, untrained separator", "mixture/mixture"),
    ("mixture/channel", "mixture/channel, untrained separator"),
    ("mixture/channel, small-mixit", "mixture/channel, untrained separator"),
    ("mixture/channel, true sources", "mixture/channel, untrained separator"),
    ("mixture/channel, true sources", "mixture/channel"),
    # Is there anything in separation that a random change of colour does not give?
    ("mixture/channel", "mixture/mixture, equalised"),
    ("mixture/channel, equalised", "mixture/mixture, equalised"),
    ("mixture/channel, equalised", "mixture/channel, untrained separator, equalised"),
    ("mixture/channel, true sources, equalised", "mixture/channel, true sources"),
    ("mixture/channel, true sources, equalised", "mixture/channel, untrained separator, equalised"),
)
