"""Where embeddings lie: numbers that describe an encoder and never vote on its quality.

They are known to follow the quality of search poorly (arXiv 2406.12336); what does is ranking, in `ranking`. Vectors
have shape (n, dim), n at least 2; `alignment`, `uniformity` and cosines take those of length 1, the others raw ones.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from sklearn.preprocessing import normalize


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32; a zero vector stays zero."""
    return np.asarray(normalize(vectors.astype(np.float32)))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of positives, row by row, 0 to 4; lower is closer (Wang and Isola, arXiv 2005.10242)."""
    return float(((a - b) ** 2).sum(axis=1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean of exp(-2 squared distance) over pairs, -8 to 0; lower is more even (arXiv 2005.10242)."""
    cosines = random_cosines(vectors)
    return float(logsumexp(4 * cosines - 4) - np.log(len(cosines)))


def random_cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs, shape (n (n - 1) / 2,), -1 to 1."""
    return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]


def chance_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of each row of ``a`` with all rows of ``b`` but its positive, the same row, shape (n (n - 1),)."""
    return (a @ b.T)[~np.eye(len(a), dtype=bool)]


def isotropy(vectors: np.ndarray) -> float:
    """Smallest over largest partition function along the principal axes, 0 to 1; 1 is even.

    The Mirror-BERT paper's IS (Table 9, after Mu and Viswanath, arXiv 1702.01417): the sum of exp(c v) over vectors v,
    for c over the eigenvectors of their second moments. The sign of an eigenvector is arbitrary: both are taken.
    """
    vectors = vectors.astype(np.float64)
    axes = np.linalg.eigh(vectors.T @ vectors)[1]
    sums = logsumexp(vectors @ np.concatenate([axes, -axes], axis=1), axis=0)
    return float(np.exp(sums.min() - sums.max()))


def mean_vector_norm(vectors: np.ndarray) -> float:
    """Length of the mean of the vectors (the paper's MVN, Table 9); 0 is centred."""
    return float(np.linalg.norm(vectors.mean(axis=0)))


def spectrum(vectors: np.ndarray) -> np.ndarray:
    """Share of the variance along each principal axis, largest first, shape (min(n, dim),), sum 1."""
    variances = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(axis=0), compute_uv=False) ** 2
    return variances / max(variances.sum(), np.finfo(np.float64).tiny)


def effective_rank(vectors: np.ndarray) -> float:
    """Axes in use, 1 to dim: exp of the entropy of the square roots of `spectrum` (Roy and Vetterli 2007)."""
    shares = np.sqrt(spectrum(vectors))
    shares = shares[shares > 0]
    if not len(shares):
        return 1.0
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def describe(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """All of the above of raw vectors, shape (n, dim), and of positives ``a`` and ``b``, shape (m, dim) each."""
    units = unit(vectors)
    return {
        "alignment": alignment(unit(a), unit(b)),
        "uniformity": uniformity(units),
        "isotropy": isotropy(vectors),
        "mean vector norm": mean_vector_norm(vectors),
        "effective rank": effective_rank(vectors),
        "mean cosine of random pairs": float(random_cosines(units).mean()),
    }
