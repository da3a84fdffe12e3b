from __future__ import annotations

import numpy as np
import pytest

from sentence_transformers_mirror.evidence.geometry import (
    alignment,
    describe,
    effective_rank,
    isotropy,
    mean_vector_norm,
    random_cosines,
    spectrum,
    uniformity,
)

RNG = np.random.default_rng(0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)  # in float64, for the plain loops


def test_alignment_and_uniformity_are_plain_loops():
    a, b = unit(RNG.normal(size=(7, 3))), unit(RNG.normal(size=(7, 3)))
    assert alignment(a, b) == pytest.approx(np.mean([np.linalg.norm(x - y) ** 2 for x, y in zip(a, b, strict=True)]))
    pairs = [np.exp(-2 * np.linalg.norm(a[i] - a[j]) ** 2) for i in range(7) for j in range(i)]
    assert uniformity(a) == pytest.approx(np.log(np.mean(pairs)))
    assert sorted(random_cosines(a)) == pytest.approx(sorted(float(a[i] @ a[j]) for i in range(7) for j in range(i)))


def test_extremes():
    same = np.ones((5, 4)) / 2
    assert alignment(same, same) == 0 and alignment(same, -same) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0)
    assert effective_rank(same) == 1 and spectrum(same).sum() == 0
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(axes) == pytest.approx(4)
    assert isotropy(axes) == pytest.approx(1)
    assert mean_vector_norm(axes) == 0 and mean_vector_norm(axes + [3, 4, 0, 0]) == 5
    assert isotropy(100 * same) == pytest.approx(0, abs=1e-12)  # exp(200) along one axis, without overflow


def test_isotropy_is_a_plain_loop():
    vectors = RNG.normal(size=(50, 3)) + [1, 0, 0]
    axes = np.linalg.eigh(vectors.T @ vectors)[1].T
    sums = [np.exp(vectors @ (sign * axis)).sum() for axis in axes for sign in (1, -1)]
    assert isotropy(vectors) == pytest.approx(min(sums) / max(sums))


def test_spectrum_has_the_variances_of_the_axes():
    vectors = RNG.normal(size=(400, 3)) * [3, 2, 1] + 7
    variances = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    np.testing.assert_allclose(spectrum(vectors), variances / variances.sum())


def test_describe_takes_raw_vectors():
    vectors, b = 5 * RNG.normal(size=(20, 4)), RNG.normal(size=(20, 4))
    found = describe(vectors, vectors, b)
    assert found["alignment"] == pytest.approx(alignment(unit(vectors), unit(b)), rel=1e-4)
    assert found["uniformity"] == pytest.approx(uniformity(unit(vectors)), rel=1e-4)
    assert found["mean vector norm"] == pytest.approx(mean_vector_norm(vectors))
    assert set(found) == {
        "alignment",
        "uniformity",
        "isotropy",
        "mean vector norm",
        "effective rank",
        "mean cosine of random pairs",
    }
