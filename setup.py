"""Packaging of sepssl: metadata, dependencies, console scripts."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = {}
exec((ROOT / "sepssl" / "version.py").read_text(), VERSION)

PACKAGES = [*find_packages(include=["sepssl", "sepssl.*"]), "sepssl.configs", "sepssl.export"]
# tensorflow-hub imports pkg_resources, which later setuptools lack.
HUB = ["tensorflow-hub>=0.16", "tf-keras>=2.17", "setuptools<81"]
# Quantizes TF Lite files; float32 does without. Its interface changes from version to version.
TFLITE = ["ai-edge-quantizer>=0.10,<0.11"]
# Writes and checks ONNX files. onnx 1.19.0 needs a later ml_dtypes than TensorFlow 2.17 takes, but
# does not say so.
ONNX = ["onnx>=1.16,!=1.19.0", "onnxruntime>=1.18"]

# Finds models under hf://OWNER/REPOSITORY.
HF = ["huggingface_hub>=0.26"]

# Writes the notebooks from their sources, and runs them.
NOTEBOOK = ["ipykernel>=6", "jupytext>=1.16", "nbclient>=0.10", "nbformat>=5.10"]

setup(
    name="sepssl",
    version=VERSION["__version__"],
    description="Self-supervised audio representations from automatically separated sound scenes",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=PACKAGES,
    package_dir={
        "sepssl": "sepssl",
        "sepssl.configs": "configs",
        "sepssl.export": "export",
    },
    package_data={
        "sepssl": ["py.typed"],
        "sepssl.reports": ["templates/*.html"],
        "sepssl.weights": ["*.keras", "registry.json", "ATTRIBUTION.csv"],
    },
    install_requires=[
        "absl-py>=2.1",
        "filelock>=3.24",
        "jinja2>=3.1",
        "keras>=3.13.2",
        "matplotlib>=3.8",
        "ml_collections>=1.0",
        "numpy>=1.26",
        "pillow>=9.2",
        "pyarrow>=14",
        "scikit-learn>=1.4",
        "scipy>=1.12",
        "soundfile>=0.12.1",
        "soxr>=0.4",
        "threadpoolctl>=3.0",
        "tqdm>=4.65",
        "usearch>=2.17",
        # TensorFlow 2.21 no longer brings it, and tf.summary.audio raises without it.
        "tensorboard>=2.17",
        "tensorflow>=2.17,<2.22",
        "tensorflow-datasets>=4.9.7",
    ],
    extras_require={
        "test": [
            *HF,
            *HUB,
            *NOTEBOOK,
            *TFLITE,
            *ONNX,
            "ai-edge-litert>=1.2",
            "fast_bss_eval>=0.1.4",
            "hypothesis>=6.100",
            "mlcroissant>=1.0.22",
            "pytest>=8.0",
            "pytest-cov>=5.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
        # tensorflow-io's native ops load with TensorFlow 2.17 only; newer
        # tensorflow-metadata breaks `import tensorflow_datasets` beside it.
        "tfio": [
            "tensorflow>=2.17,<2.18",
            "tensorflow-io>=0.37.1",
            "tensorflow-metadata<1.17",
            "pyarrow<22",  # newer ones need NumPy 2, which TensorFlow 2.17 does not take
        ],
        "hf": HF,
        "hub": HUB,
        "tflite": TFLITE,
        "onnx": ONNX,
        # What tests/benchmarks compares with.
        "benchmark": ["asteroid>=0.7", "torch>=2.0"],
        # What sepssl-import-panns-checkpoint reads PyTorch's files with.
        "panns": ["torch>=2.6"],
        # Runs sepssl-corpus as a pipeline; local processes do without.
        "beam": ["apache-beam>=2.60"],
        # Places the points of sepssl-map --method=umap.
        "umap": ["umap-learn>=0.5.5"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"],
        "types": ["mypy>=1.11"],
        "colab": NOTEBOOK,
    },
    entry_points={
        "console_scripts": [
            "sepssl-classify=sepssl.cli.classify:run",
            "sepssl-corpus=sepssl.cli.corpus:run",
            "sepssl-curves=sepssl.cli.curves:run",
            "sepssl-embed=sepssl.cli.embed:run",
            "sepssl-evaluate=sepssl.cli.evaluate:run",
            "sepssl-export=sepssl.cli.export:run",
            "sepssl-import-google-checkpoint=sepssl.cli.import_google_checkpoint:run",
            "sepssl-import-panns-checkpoint=sepssl.cli.import_panns_checkpoint:run",
            "sepssl-map=sepssl.cli.map:run",
            "sepssl-mix=sepssl.cli.mix:run",
            "sepssl-quickstart=sepssl.cli.quickstart:run",
            "sepssl-search=sepssl.cli.search:run",
            "sepssl-separate=sepssl.cli.separate:run",
            "sepssl-train=sepssl.cli.train:run",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
