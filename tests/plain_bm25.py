"""BM25 as the formula is written, one text after the other."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter

import numpy as np


@functools.cache
def plain_terms(text):
    text = re.sub("([\u3041-\u309f\u4e00-\u9fff])", r" \1 ", text)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c == "_" else " " for c in text)
    return [unicodedata.normalize("NFKC", word).casefold() for word in kept.split()]


def plain_bm25(texts, query, k1=1.5, b=0.75):
    """As the formula is written, one text after the other."""
    documents = [Counter(plain_terms(text)) for text in texts]
    mean = sum(document.total() for document in documents) / len(documents)
    frequency = Counter(term for document in documents for term in document)
    scores = []
    for document in documents:
        score = 0.0
        for term in plain_terms(query):
            if document[term]:
                idf = math.log(1 + (len(texts) - frequency[term] + 0.5) / (frequency[term] + 0.5))
                score += idf * document[term] / (document[term] + k1 * (1 - b + b * document.total() / mean))
        scores.append(score)
    return np.array(scores)
