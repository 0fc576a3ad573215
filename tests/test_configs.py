"""The configurations that are too large to run in a test."""

import numpy as np
import pytest

from sepssl.configs import (
    encoder_audioset,
    encoder_small,
    paper_ablation,
    real_ablation,
    separator_audioset,
)
from sepssl.pipelines.ablation import expected_cells
from sepssl.representation import Cnn14Backbone
from sepssl.representation.build import make_encoder
from sepssl.separation import Separator
from sepssl.separation.build import make_separator
from sepssl.training.loop import loop_settings


def test_the_full_separator_is_that_of_the_released_models():
    config = separator_audioset.get_config()
    made, released = make_separator(config.separator, 16000), Separator(8)
    ours, theirs = made.get_config(), released.get_config()
    # The blocks run in a loop, which changes nothing but speed and memory.
    for settings in (ours, theirs):
        settings.pop("name")
        settings["tdcn"]["config"].pop("name")
        settings["tdcn"]["config"].pop("unroll")
        settings["basis"]["config"].pop("name")
    assert ours == theirs
    loop_settings(config.train)


def test_the_full_encoder_is_cnn14():
    config = encoder_audioset.get_config()
    backbone = make_encoder(config.encoder).backbone
    assert isinstance(backbone, Cnn14Backbone)
    assert (backbone.embedding_size, backbone.width) == (2048, 64)
    assert loop_settings(config.train)["state_steps"][-1] == config.train.steps


def test_sizes_and_the_hop_of_patches_are_those_of_the_configuration():
    config = encoder_small.get_config().encoder
    config.update(embedding_size=24, width=4, patch_hop_frames=96)
    encoder = make_encoder(config)
    assert (encoder.embedding_size, encoder.backbone.width) == (24, 4)
    waveform = np.zeros([1, 47000], np.float32)
    assert encoder.patch_embeddings(waveform).shape == (1, 4, 24)
    # Earlier configurations do not have the key, and the published table is of theirs.
    del config.cover_end
    assert make_encoder(config).patch_embeddings(waveform).shape == (1, 3, 24)
    assert not paper_ablation.get_config().encoder.encoder.cover_end


@pytest.mark.parametrize("module", [paper_ablation, real_ablation])
def test_rows_of_the_ablation_are_of_one_kind_each_and_its_comparisons_name_them(module):
    config = module.get_config()
    names = [row["name"] for row in config.rows]
    assert len(set(names)) == len(names)
    assert {name for pair in config.comparisons for name in pair} <= set(names)
    states = {state for row in config.rows for state in row.get("separators", ())}
    assert states <= {*config.states, "true_sources"}
    steps = {state for state in config.states.to_dict().values() if isinstance(state, int)}
    assert steps <= set(loop_settings(config.separator.train)["state_steps"])
    for row in config.rows:
        pairing = {**config.encoder.views.to_dict(), **row.get("views", {})}
        shows = pairing["mixture_channel"] + pairing["channel_channel"]
        assert bool(shows) == bool(row.get("separators")) or row.get("baseline"), row["name"]


def test_both_stages_of_the_ablation_see_the_sounds_that_are_named_once():
    config = real_ablation.get_config()
    config.directory = "mix:sounds"
    assert config.separator.data.directory == config.encoder.data.directory == "mix:sounds"
    # The shipped separators have heard the fold that other seeds test on.
    cells = expected_cells(config)
    assert list(cells["mixture/channel"]) == [0, 1, 2, 3, 4]
    assert list(cells["mixture/channel, small-mixit"]) == [0]
