# %% [markdown]
# # Train on your own recordings, and export
#
# The whole method on one folder, without labels: a separator learns to split recordings into
# channels, an encoder learns to associate a recording with its own channels, and the encoder is
# exported for programs that do not have sepssl. With the settings here it takes about two minutes
# on two CPU cores. Models that are so small and so briefly trained are not good; they show every
# step.

# %% cellView="form"
# @title Your recordings
# @markdown A folder or a sound file: a path such as `/content/drive/MyDrive/recordings`, or
# @markdown `upload` to choose files on your computer. Left empty: scenes that sepssl makes itself.
INPUT = ""  # @param {type: "string"}
# @markdown Where the results go. With a folder on Drive, a training that was cut off goes on in the
# @markdown next session.
OUTPUT = "trained"  # @param {type: "string"}
# @markdown `smoke`: minutes on a CPU. `small`: the models of the documentation, on a GPU.
SIZE = "smoke"  # @param ["smoke", "small"]

import pathlib

from sepssl.pipelines.colab import chosen_recordings

output = pathlib.Path(OUTPUT)
recordings = chosen_recordings(INPUT, output, scenes=60)
print(f"recordings: {recordings}")

# %% [markdown]
# ## A scene, and what is in it
#
# The built-in scenes are a pure function of a seed and a number, and their true sources are known.
# This one is in no training.

# %%
from sepssl.data.scenes import SceneConfig, make_scene
from sepssl.reports.found import Sound
from sepssl.reports.notebook import show_sounds

scene = make_scene(SceneConfig(duration=4.0), seed=0, split="test", index=2)
rate = scene.sample_rate
sources = zip(scene.class_names, scene.sources, strict=False)
show_sounds([Sound("mixture", scene.mixture, rate), *(Sound(name, x, rate) for name, x in sources)])

# %% [markdown]
# ## A separator, trained without sources
#
# MixIT: two recordings are added, and the separator's channels have to add up to either of them
# again. The configuration is a Python file of which every value can be changed; `train.init_from =
# "small"` would start from the separator that comes with sepssl instead of from nothing.

# %%
import sepssl
from sepssl.configs import separator_small, separator_smoke

config = (separator_small if SIZE == "small" else separator_smoke).get_config()
config.data.directory = str(recordings)
if SIZE == "smoke":
    config.train.update(steps=400, state_steps=(0, 100, 400))
    config.train.update(log_every=50, checkpoint_every=100)
run = sepssl.train_separator(config, output / "separator")
run.states()

# %% [markdown]
# The report of the run: learning curves, and a clip as each kept state of the separator splits it.

# %%
from sepssl.reports.notebook import show_page
from sepssl.reports.training import write_training_report

show_page(write_training_report(run))

# %%
import numpy as np

separator = sepssl.load_separator(run.final)
channels = separator.separate(scene.mixture, rate)
print(
    "largest difference of the channels' sum from the mixture:",
    np.abs(channels.sum(axis=0) - scene.mixture).max(),
)
show_sounds([Sound(f"channel {i + 1}", channel, rate) for i, channel in enumerate(channels)])

# %% [markdown]
# After so short a training the channels still resemble each other. Compare them with those of the
# separator that comes with sepssl, `sepssl.load_separator("small")`.
#
# ## An encoder that associates recordings with their channels
#
# Half of each pair shows a patch of a recording, half a patch of one of its channels; the encoder
# learns which belong together.

# %%
from sepssl.configs import encoder_small, encoder_smoke

config = (encoder_small if SIZE == "small" else encoder_smoke).get_config()
config.data.directory = str(recordings)
if SIZE == "smoke":
    config.train.update(steps=60, state_steps=(60,))
config.views.update(mixture_mixture=0.0, mixture_channel=1.0, separators=str(run.final))
encoder_run = sepssl.train_encoder(config, output / "encoder")
encoder = sepssl.load_encoder(encoder_run.final)
print("shape of the embedding of a scene:", encoder(scene.mixture[None]).shape)

# %% [markdown]
# Its report has curves too, and pairs as it has seen them, each with the reason of its choice:

# %%
show_page(write_training_report(encoder_run))

# %% [markdown]
# ## Export, and load without sepssl

# %%
import shutil

import tensorflow as tf

from sepssl.export import save_encoder

tf.get_logger().setLevel("WARNING")
shutil.rmtree(output / "saved_model", ignore_errors=True)
card = save_encoder(encoder, output / "saved_model")
loaded = tf.saved_model.load(str(output / "saved_model"))
ours, theirs = (np.asarray(model(scene.mixture[None])) for model in (encoder, loaded))
print("largest difference of the export:", np.abs(ours - theirs).max())

# %%
import sys

archive = shutil.make_archive(str(output / "saved_model"), "zip", output / "saved_model")
print(archive)
if "google.colab" in sys.modules:
    from google.colab import files

    files.download(archive)

# %% [markdown]
# ## What to try next
#
# - Your own folder, and `SIZE = "small"` on a runtime with a GPU (*Runtime → Change runtime type*).
# - TF Lite, ONNX and HEAR: the page [Export](../docs/export.md) of the documentation.
# - The same in a terminal:
#
# ```sh
# sepssl-train --config=separator_small --workdir=separator --config.data.directory=FOLDER
# sepssl-train --config=encoder_small --workdir=encoder --config.data.directory=FOLDER \
#     --config.views.separators=separator/final.keras
# sepssl-export --encoder=encoder/final.keras --output=saved_model
# ```
