"""TFDS datasets for tests."""

import tensorflow_datasets as tfds


def prepare(folder, features, splits, num_shards=1, file_format="tfrecord"):
    """Writes the dataset "toy": `splits` are lists of records. TFDS does not know its code."""

    class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            yield from enumerate(splits[split])

    builder = Toy(data_dir=folder, file_format=file_format)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=num_shards)
    )
    return builder
