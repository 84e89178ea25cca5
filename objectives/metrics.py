"""Metrics of generated text, one score in [0, 1] a row, and how sure their mean is.

Words are what stands between white space or punctuation; a language written without spaces is scored by its unbroken
runs. Classification has one metric, accuracy: whether the label is right.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import regex

from objectives.errors import RequestError
from objectives.rows import Task

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
#: Letters and digits with their marks: in Hindi and other scripts the vowels are marks.
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")


def metric_names(task: Task) -> tuple[str, ...]:
    """The metrics of a task, its default first."""
    return ("accuracy",) if task == "classification" else tuple(METRICS)


def resolve_metric(task: Task, name: str | None) -> str:
    """``name``, or the task's default for None. Raises RequestError if the task has no such metric."""
    names = metric_names(task)
    if name is None:
        return names[0]
    if name not in names:
        raise RequestError(f"--metric {name} is not a metric of {task}. Use {' or '.join(names)}.")
    return name


def score(metric: str, prediction: str, references: Sequence[str]) -> float:
    """The score in [0, 1] of one prediction: of the best-matching reference, except for BLEU, which takes all at once.

    Raises ValueError without references.
    """
    if not references:
        raise ValueError("a prediction needs at least one reference")
    return METRICS[metric](prediction, references)


def mean_interval(
    scores: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Confidence interval of the mean of ``scores``; it contains the sample mean.

    For scores of 0 and 1 only, Wilson's score interval (1927; Brown, Cai and DasGupta, "Interval Estimation for a
    Binomial Proportion", 2001): their bootstrap is a binomial without correction, and claims certainty where all are
    right or all are wrong. Otherwise the percentile bootstrap (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, section 13.3); it is a point for a constant sample.

    Raises ValueError without scores.
    """
    import numpy as np

    if not scores:
        raise ValueError("an interval needs at least one score")
    values = np.asarray(scores, dtype=np.float64)
    if np.all((values == 0) | (values == 1)):
        return _wilson(float(values.mean()), len(values), level)
    if np.all(values == values[0]):
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(scores: Sequence[float]) -> float:
    """Of the mean: the sample's standard deviation (n - 1 degrees of freedom) over the root of n.

    Of scores that are all the same 1 / n, as if one row were wrong (or right) after all: no count of rows shows that
    there is no error.

    Raises ValueError for fewer than two scores.
    """
    size = len(scores)
    if size < 2:
        raise ValueError("a standard error needs at least two scores")
    if min(scores) == max(scores):
        return 1 / size
    mean = math.fsum(scores) / size
    return math.sqrt(math.fsum((value - mean) ** 2 for value in scores) / (size - 1) / size)


def _wilson(mean: float, size: int, level: float) -> tuple[float, float]:
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    center = (mean + z2 / (2 * size)) / (1 + z2 / size)
    half = math.sqrt(z2 * (mean * (1 - mean) + z2 / (4 * size)) / size) / (1 + z2 / size)
    # At 0 and 1 the interval ends exactly there, but for rounding.
    return max(0.0, min(mean, center - half)), min(1.0, max(mean, center + half))


def _squad_words(text: str) -> list[str]:
    """Lower case without ASCII punctuation and articles, as the evaluation of SQuAD has it (Rajpurkar et al., 2016)."""
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _exact_match(prediction: str, references: Sequence[str]) -> float:
    """Whether the text is a reference, but for white space: where output is parsed, a sign or a comma is not noise."""
    words = prediction.split()
    return float(any(words == reference.split() for reference in references))


def _token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall (SQuAD); 1 where neither side has words, as in SQuAD 2.0 (2018)."""
    words = Counter(_squad_words(prediction))

    def f1(reference: str) -> float:
        expected = Counter(_squad_words(reference))
        if not words or not expected:
            return float(words == expected)
        return 2 * (words & expected).total() / (words.total() + expected.total())

    return max(map(f1, references))


class _UnicodeWords:
    """The default tokenizer of rouge-score keeps ASCII letters only, so that Russian or Greek would always score 0.

    On ASCII text both give the same words.
    """

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = _WORD.findall(text.lower())
        return words


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_UnicodeWords())


def _rouge_l(prediction: str, references: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of words (Lin, 2004); texts without any word must be equal."""

    def f_measure(reference: str) -> float:
        if not _WORD.search(prediction) and not _WORD.search(reference):
            return float(prediction.strip() == reference.strip())
        return float(_rouge_scorer().score(reference, prediction)["rougeL"].fmeasure)

    return max(map(f_measure, references))


@cache
def _bleu_scorer() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True, smooth_method="exp")


def _bleu(prediction: str, references: Sequence[str]) -> float:
    """Sentence BLEU (Papineni et al., 2002; effective order and exponential smoothing as in sacrebleu: Post, 2018)."""
    percent = float(_bleu_scorer().sentence_score(prediction, list(references)).score)
    return min(1.0, percent / 100)  # rounding can put a perfect score above 100


METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "rouge_l": _rouge_l,
    "exact_match": _exact_match,
    "token_f1": _token_f1,
    "bleu": _bleu,
}
