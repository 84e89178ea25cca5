from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.errors import RequestError
from objectives.metrics import METRICS, mean_interval, metric_names, resolve_metric, score, standard_error

#: The first example of a process pays for imports, and a shared machine is slow at times.

ANY = st.text(max_size=40)
WORDS = ["the", "cat", "sat", "on", "a", "mat", ".", ",", "pub", "£20", "café"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=30)
BINARY = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=50)


def test_names_and_defaults() -> None:
    assert metric_names("classification") == ("accuracy",)
    assert metric_names("generation") == ("rouge_l", "exact_match", "token_f1", "bleu")
    assert resolve_metric("classification", None) == "accuracy"
    assert resolve_metric("generation", None) == "rouge_l"
    assert resolve_metric("generation", "bleu") == "bleu"


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError) as error:
        resolve_metric("generation", "accuracy")
    assert str(error.value) == (
        "--metric accuracy is not a metric of generation. Use rouge_l or exact_match or token_f1 or bleu."
    )
    with pytest.raises(RequestError) as error:
        resolve_metric("classification", "bleu")
    assert str(error.value) == "--metric bleu is not a metric of classification. Use accuracy."


@pytest.mark.parametrize(
    ("metric", "prediction", "references", "expected"),
    [
        ("exact_match", " The  Cat,\nsat! ", ["The Cat, sat!"], 1.0),
        ("exact_match", "The cat, sat!", ["a cat sat"], 0.0),
        ("exact_match", "-5", ["5"], 0.0),
        ("exact_match", '{"a": 1', ['{"a": 1}'], 0.0),
        ("token_f1", "The  Cat, sat!", ["a cat sat"], 1.0),
        ("exact_match", "the cat", ["dog", "the cat"], 1.0),
        ("exact_match", "cat sat", ["sat cat"], 0.0),
        ("exact_match", "theatre", ["atre"], 0.0),
        # 2 shared words of 3 predicted and 4 expected: 2·2 / (3 + 4).
        ("token_f1", "cat sat down", ["cat sat on mat"], 4 / 7),
        # Each word counts as often as it stands on both sides: 1 of 3 and 1 of 1.
        ("token_f1", "cat cat cat", ["the cat"], 2 / 4),
        ("token_f1", "dog", ["cat"], 0.0),
        ("token_f1", "", ["cat"], 0.0),
        ("token_f1", "the", ["a"], 1.0),
        ("token_f1", "cat", ["dog", "cat sat"], 2 / 3),
        # Lin (2004), section 3.1: the longest common subsequence is 3 of 4 words, then 2 of 4.
        ("rouge_l", "police kill the gunman", ["police killed the gunman"], 3 / 4),
        ("rouge_l", "the gunman kill police", ["police killed the gunman"], 2 / 4),
        ("rouge_l", "the gunman police killed", ["police killed the gunman", "the gunman"], 2 / 3),
        ("rouge_l", "The Gunman", ["the gunman"], 1.0),
        ("rouge_l", "", ["police"], 0.0),
        # rouge-score alone gives 0: its words are ASCII.
        ("rouge_l", "добрый день", ["добрый вечер"], 1 / 2),
        ("rouge_l", "+", ["+"], 1.0),
        ("rouge_l", "+", ["-"], 0.0),
        # Precisions 3/4, 1/3, then 1/(2·2) and 1/(4·1): smoothing halves 1 once more at each order without a match.
        ("bleu", "the cat sat down", ["the cat was sat"], math.prod([3 / 4, 1 / 3, 1 / 4, 1 / 4]) ** (1 / 4)),
        # Effective order: two words have no longer n-grams. Brevity: exp(1 - 4/2).
        ("bleu", "the cat", ["the cat sat down"], math.exp(-1)),
        # All references are taken at once: each bigram stands in one of them.
        ("bleu", "a b c", ["a b x", "y b c"], ((3 / 3) * (2 / 2) * (1 / 2)) ** (1 / 3)),
        ("bleu", "", ["cat"], 0.0),
    ],
)
def test_hand_computed(metric: str, prediction: str, references: list[str], expected: float) -> None:
    assert score(metric, prediction, references) == pytest.approx(expected, abs=1e-12)


@given(ANY, st.lists(ANY, min_size=1, max_size=3))
def test_scores_are_bounded(prediction: str, references: list[str]) -> None:
    assert all(0 <= score(metric, prediction, references) <= 1 for metric in METRICS)


@given(SENTENCES, st.lists(SENTENCES, max_size=2))
def test_a_prediction_that_is_a_reference_is_perfect(text: str, others: list[str]) -> None:
    for metric in METRICS:
        assert score(metric, text, [*others, text]) == pytest.approx(1)


@given(ANY.filter(str.strip))
def test_any_text_equals_itself(text: str) -> None:
    assert {score(metric, text, [text]) for metric in ("exact_match", "token_f1", "rouge_l")} == {1.0}


@given(SENTENCES, SENTENCES)
def test_symmetry(one: str, other: str) -> None:
    for metric in ("exact_match", "token_f1", "rouge_l"):
        assert score(metric, one, [other]) == pytest.approx(score(metric, other, [one]))


@given(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=4))
def test_the_best_reference_counts(prediction: str, references: list[str]) -> None:
    for metric in ("exact_match", "token_f1", "rouge_l"):
        assert score(metric, prediction, references) == max(score(metric, prediction, [one]) for one in references)


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_rouge_is_that_of_the_library_on_ascii(prediction: str, reference: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    has_words = any(character.isalnum() for character in prediction + reference)
    assert not has_words or score("rouge_l", prediction, [reference]) == theirs


def test_no_reference_is_a_mistake_of_the_caller() -> None:
    for metric in METRICS:
        with pytest.raises(ValueError, match="at least one reference"):
            score(metric, "text", [])


@given(st.one_of(SCORES, BINARY), st.integers(0, 9))
def test_the_interval_holds_the_mean(scores: list[float], seed: int) -> None:
    low, high = mean_interval(scores, seed=seed, resamples=200)
    assert 0 <= low <= math.fsum(scores) / len(scores) + 1e-12
    assert math.fsum(scores) / len(scores) - 1e-12 <= high <= 1
    assert mean_interval(scores, seed=seed, resamples=200) == (low, high)


def test_the_interval_of_zeros_and_ones_is_wilsons() -> None:
    # Wilson's bounds at n = 10, x = 0 and 10: z² / (n + z²) from the end.
    z2 = statistics.NormalDist().inv_cdf(0.975) ** 2
    assert mean_interval([0.0] * 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert mean_interval([1.0] * 10) == (pytest.approx(10 / (10 + z2)), 1.0)
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert mean_interval([1.0] * 81 + [0.0] * 182) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_the_bootstrap_interval_agrees_with_the_normal_one_for_many_scores() -> None:
    scores = [(index % 101) / 100 for index in range(2020)]
    error = standard_error(scores)
    low, high = mean_interval(scores, resamples=4000)
    assert low == pytest.approx(0.5 - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(0.5 + 1.96 * error, abs=0.1 * error)
    for seed in range(3):  # as figures are told: resampled often enough that the seed hardly matters
        assert mean_interval(scores, seed=seed) == pytest.approx((low, high), abs=0.2 * error)
    narrow = mean_interval(scores, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert mean_interval(scores, seed=1) != mean_interval(scores, seed=2)


def test_a_constant_sample_is_a_point() -> None:
    assert mean_interval([0.1] * 3) == (0.1, 0.1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_standard_error(scores: list[float]) -> None:
    expected = statistics.stdev(scores) / math.sqrt(len(scores)) if len(set(scores)) > 1 else 1 / len(scores)
    assert standard_error(scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [2, 64, 500])
def test_no_score_is_known_without_error(size: int) -> None:
    """Where all rows are right the error is as where all but one are: so a row less is within it."""
    right, but_one = standard_error([1.0] * size), standard_error([1.0] * (size - 1) + [0.0])
    assert right == pytest.approx(but_one) == pytest.approx(1 / size)


def test_vowels_that_are_marks_belong_to_their_words() -> None:
    """In Hindi a sentence is not its consonants: two words that differ in a vowel are two."""
    assert score("rouge_l", "कि", ["की"]) == 0.0
    assert score("rouge_l", "हिन्दी में नमस्ते", ["हिन्दी में नमस्ते"]) == 1.0
    assert score("rouge_l", "हिन्दी में", ["हिन्दी में नमस्ते"]) == pytest.approx(0.8)  # precision 1, recall 2/3


def test_too_few_scores() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        mean_interval([])
    with pytest.raises(ValueError, match="at least two scores"):
        standard_error([1.0])
