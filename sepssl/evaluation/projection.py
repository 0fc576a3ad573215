"""Vectors in two dimensions, to look at."""

import importlib.util

import numpy as np
import threadpoolctl
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from sepssl.errors import InputError

METHODS = ("tsne", "umap", "pca")
COMPONENTS = 50  # of the principal components that t-SNE and UMAP begin with; as is usual
PERPLEXITY = 30.0  # scikit-learn's
NEIGHBOURS = 15  # UMAP's


def project(vectors: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Places vectors in a plane so that those that are near each other stay so.

    "pca": the first two principal components. "tsne": t-SNE (van der Maaten and Hinton, JMLR 2008)
    on the first 50, beginning with the first two. "umap": UMAP (McInnes et al., arXiv 1802.03426)
    on the first 50, with the package umap-learn.

    Args:
        vectors: float [rows, dim], of length 1.
        method: one of `METHODS`.
        seed: of what is random.

    Returns:
        float64 [rows, 2].

    Raises:
        InputError: if UMAP is asked for and not installed.
    """
    require_method(method)
    rows = len(vectors)
    if rows < 2:
        return np.zeros((rows, 2))
    if rows < 4:  # no neighbours to keep
        method = "pca"
    components = 2 if method == "pca" else COMPONENTS
    pca = PCA(min(components, *vectors.shape), svd_solver="full", random_state=seed)
    reduced = pca.fit_transform(np.asarray(vectors, np.float64))
    if method == "tsne":
        perplexity = min(PERPLEXITY, (rows - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        # One thread: on a busy machine, two that wait for each other took eight times as long.
        with threadpoolctl.threadpool_limits(1):
            return tsne.fit_transform(reduced)
    if method == "umap":
        import umap

        neighbours = min(NEIGHBOURS, rows - 1)
        return umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(reduced)
    return np.pad(reduced, [(0, 0), (0, 2 - reduced.shape[1])])


def require_method(method: str) -> None:
    """Raises InputError if UMAP is asked for and not installed."""
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise InputError(
            "UMAP needs umap-learn; expected the extra 'umap': pip install 'sepssl[umap]'"
        )
