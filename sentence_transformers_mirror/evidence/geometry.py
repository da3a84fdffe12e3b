"""Where embeddings lie: numbers that describe an encoder and never vote on its quality.

They are known to follow the quality of search poorly (arXiv 2406.12336); what does is ranking, in `ranking`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from sklearn.preprocessing import normalize


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32, shape (n, dim); a zero vector stays zero."""
    return np.asarray(normalize(vectors.astype(np.float32)))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of positives, 0 to 4; lower is closer (Wang and Isola, arXiv 2005.10242).

    Args:
        a: Unit vectors, shape (n, dim).
        b: Unit vectors, shape (n, dim); row i is a positive of row i.
    """
    return float(((a - b) ** 2).sum(axis=1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean of exp(-2 squared distance) over pairs, -8 to 0; lower is more even (arXiv 2005.10242).

    Args:
        vectors: Unit vectors, shape (n, dim), n at least 2.
    """
    cosines = random_cosines(vectors)
    return float(logsumexp(4 * cosines - 4) - np.log(len(cosines)))


def random_cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of unit vectors, shape (n (n - 1) / 2,), -1 to 1."""
    return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]


def chance_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors with those that are not their positives, shape (n (n - 1),), -1 to 1.

    Args:
        a: First vectors, shape (n, dim).
        b: Second vectors, shape (n, dim); row i is the positive of row i. Chance pairs the same two kinds of texts.
    """
    return (a @ b.T)[~np.eye(len(a), dtype=bool)]


def isotropy(vectors: np.ndarray) -> float:
    """Smallest over largest partition function along the principal axes, 0 to 1; 1 is even.

    The Mirror-BERT paper's IS (Table 9, after Mu and Viswanath, arXiv 1702.01417): the sum of exp(c v) over vectors v,
    for c over the eigenvectors of their second moments. The sign of an eigenvector is arbitrary: both are taken.

    Args:
        vectors: Vectors of shape (n, dim), not normalised.
    """
    vectors = vectors.astype(np.float64)
    axes = np.linalg.eigh(vectors.T @ vectors)[1]
    sums = logsumexp(vectors @ np.concatenate([axes, -axes], axis=1), axis=0)
    return float(np.exp(sums.min() - sums.max()))


def mean_vector_norm(vectors: np.ndarray) -> float:
    """Length of the mean of the vectors (the paper's MVN, Table 9); 0 is centred.

    Args:
        vectors: Vectors of shape (n, dim), not normalised.
    """
    return float(np.linalg.norm(vectors.mean(axis=0)))


def spectrum(vectors: np.ndarray) -> np.ndarray:
    """Share of the variance along each principal axis, largest first, shape (min(n, dim),), sum 1.

    Args:
        vectors: Vectors of shape (n, dim), n at least 2.
    """
    variances = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(axis=0), compute_uv=False) ** 2
    return variances / max(variances.sum(), np.finfo(np.float64).tiny)


def effective_rank(vectors: np.ndarray) -> float:
    """Number of axes in use, 1 to dim: exp of the entropy of the square roots of `spectrum` (Roy and Vetterli 2007).

    Args:
        vectors: Vectors of shape (n, dim), n at least 2.
    """
    shares = np.sqrt(spectrum(vectors))
    shares = shares[shares > 0]
    if not len(shares):
        return 1.0
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def describe(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """All of the above of raw vectors, shape (n, dim), and of positives ``a`` and ``b``, shape (m, dim) each."""
    return {
        "alignment": alignment(unit(a), unit(b)),
        "uniformity": uniformity(unit(vectors)),
        "isotropy": isotropy(vectors),
        "mean vector norm": mean_vector_norm(vectors),
        "effective rank": effective_rank(vectors),
        "mean cosine of random pairs": float(random_cosines(unit(vectors)).mean()),
    }
