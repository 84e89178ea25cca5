"""Scores against brute force: every label scored by itself, every text generated alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.accuracy import Evaluation, batches_of, evaluate
from objectives.backbone import attach
from objectives.cut import Cut, logits_at, narrowest_cut
from objectives.encoding import EncodedRow, EncodedTask, encode
from objectives.label_scoring import LabelTrie, prompt_is_shareable
from objectives.metrics import mean_interval, score, standard_error
from objectives.training import TrainingSettings, train
from tests.objectives.tiny import CAUSAL, DIALOGUES, ENCODERS, Zoo, all_groups, make_data, make_task, shake

EOS = 1


@torch.inference_mode()
def log_likelihoods(model: Any, row: EncodedRow, labels: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """Of every label behind the prompt, each in a pass of its own: (labels,), nats."""
    out = []
    for label in labels:
        logits = model(input_ids=torch.tensor([row.prompt + list(label)])).logits[0, len(row.prompt) - 1 : -1]
        out.append(logits.double().log_softmax(-1)[range(len(label)), list(label)].sum())
    return torch.stack(out)


def check_against_brute_force(model: Any, task: EncodedTask, cut: Cut = "head", by_prompt: bool = False) -> None:
    rows = task.splits["test"]
    result = evaluate(model, task, "test", metric="accuracy", cut=cut, by_prompt=by_prompt)
    loss, tokens = 0.0, 0
    for row, prediction, figure in zip(rows, result.predictions, result.scores, strict=True):
        exact = log_likelihoods(model, row, task.label_ids)
        chosen = task.labels.index(prediction)
        assert exact[chosen] >= exact.max() - 1e-4, "no label is likelier, but for rounding"
        assert figure == float(chosen == row.label)
        loss -= exact[row.label].item()
        tokens += len(task.label_ids[row.label])
    assert result.loss == pytest.approx(loss / tokens, rel=1e-4)


def labelled(label_ids: list[tuple[int, ...]], rows: int = 6) -> EncodedTask:
    """Rows with prompts of different lengths and every label in turn as the truth."""
    generator = torch.Generator().manual_seed(len(label_ids))
    split = []
    for i in range(rows):
        prompt = torch.randint(5, 300, (3 + 2 * i,), generator=generator).tolist()
        label = i * 7 % len(label_ids)
        split.append(EncodedRow(prompt, list(label_ids[label]), label))
    return EncodedTask(
        task="classification",
        kind="causal",
        splits={"train": split, "validation": split, "test": split},
        labels=tuple(f"label {i}" for i in range(len(label_ids))),
        label_ids=tuple(label_ids),
        pad_id=2,
        eos_id=EOS,
        max_new_tokens=1,
        max_tokens=64,
        template="{text}",
        lead="",
        longest_prompt=64,
        cut_prompts={},
        cut_completions={},
    )


#: Few different tokens, so that labels share beginnings; each is ended, so that none is the beginning of another.
LABELS = st.lists(
    st.lists(st.integers(10, 13), min_size=0, max_size=5).map(lambda ids: (*ids, EOS)),
    min_size=2,
    max_size=16,
    unique=True,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(label_ids=LABELS, by_prompt=st.booleans())
def test_the_label_by_bounds_is_the_likeliest_of_all(
    zoo: Zoo, label_ids: list[tuple[int, ...]], by_prompt: bool
) -> None:
    check_against_brute_force(zoo.base("llama"), labelled(label_ids), by_prompt=by_prompt)


def test_forty_labels_of_up_to_eight_tokens(zoo: Zoo) -> None:
    generator = torch.Generator().manual_seed(3)
    label_ids = {(*torch.randint(10, 16, (1 + i % 8,), generator=generator).tolist(), EOS) for i in range(48)}
    task = labelled(sorted(label_ids)[:40], rows=12)
    assert len(task.labels) == 40
    check_against_brute_force(zoo.base("llama"), task)


def adapted_and_few_rows(zoo: Zoo, name: str) -> tuple[Any, EncodedTask]:
    space = zoo.space(name)
    model = attach(zoo.base(name), space, all_groups(space), seed=0).get_base_model().eval()
    shake(model)
    task = make_task(zoo, name)
    few = replace(task, splits={"test": task.splits["test"][:6]})
    return model, few


@pytest.mark.parametrize("cut", ["head", "none"])
@pytest.mark.parametrize("name", CAUSAL)
def test_every_architecture_with_an_adapter(zoo: Zoo, name: str, cut: Cut) -> None:
    model, few = adapted_and_few_rows(zoo, name)
    check_against_brute_force(model, few, cut)


#: Keys and values of every token: the others keep a window of them (as gemma2 of the zoo) or a state.
SHAREABLE = ("llama", "gpt2", "opt", "mixtral")


@pytest.mark.parametrize("name", CAUSAL)
def test_which_models_can_share_a_prompt_is_measured(zoo: Zoo, name: str) -> None:
    for cut in (narrowest_cut(zoo.base(name)), "none"):
        assert prompt_is_shareable(zoo.base(name), 2, cut) == (name in SHAREABLE)


@pytest.mark.parametrize("cut", ["narrowest", "head", "none"])
@pytest.mark.parametrize("name", SHAREABLE)
def test_a_shared_prompt_gives_the_same_labels(zoo: Zoo, name: str, cut: Any) -> None:
    model, few = adapted_and_few_rows(zoo, name)
    cut = narrowest_cut(model) if cut == "narrowest" else cut
    check_against_brute_force(model, few, cut, by_prompt=True)


def test_rounding_alone_does_not_hinder_sharing_a_prompt(zoo: Zoo) -> None:
    """A model that is sure has log-probabilities far from zero, which bfloat16 rounds the more coarsely."""
    model = zoo.copy("llama")
    model.lm_head.weight.data.mul_(8)
    model.to(torch.bfloat16)
    assert prompt_is_shareable(model, 2, narrowest_cut(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_counts_positions_otherwise_cannot_share_a_prompt(zoo: Zoo, dtype: torch.dtype) -> None:
    model = zoo.copy("gpt2").to(dtype)
    forward = model.forward

    def wrong(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = wrong
    assert not prompt_is_shareable(model, 2, "head")


def test_a_shared_prompt_passes_through_the_model_once(zoo: Zoo) -> None:
    task = labelled([(10 + i, 20, 21, EOS) for i in range(8)], rows=6)
    base, seen = zoo.base("llama"), 0

    def count(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal seen
        seen += kwargs["input_ids"].shape[1] > 5

    with base.model.register_forward_pre_hook(count, with_kwargs=True):
        evaluate(base, task, "test", metric="accuracy", by_prompt=True)
    assert seen == 1


def test_a_trained_model_needs_far_fewer_passes_than_labels(zoo: Zoo) -> None:
    """Where the true label is likely at once, its score rules out all others."""
    label_ids = [(10 + i // 8, 20 + i % 8, EOS) for i in range(40)]
    task = labelled(label_ids, rows=12)
    space = zoo.space("llama")
    model = attach(zoo.base("llama"), space, all_groups(space, 16), seed=0).get_base_model()
    train(model, task, TrainingSettings(steps=80, batch_size=12, learning_rate=2e-2))
    passed = 0

    def count(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal passed
        passed += len(kwargs["input_ids"])

    with model.model.register_forward_pre_hook(count, with_kwargs=True):
        result = evaluate(model, task, "test", metric="accuracy")
    assert result.scores == (1.0,) * 12
    assert passed < 12 * 3, "rows passed through the model; all labels would be 12 x 40"


def test_figures_of_an_evaluation() -> None:
    scores = (1.0, 0.0, 1.0, 1.0)
    figures = Evaluation(scores, 0.5, ("a", "b", "c", "d")).to_json(seed=3)
    assert figures == {
        "accuracy": 0.75,
        "accuracy_ci": list(mean_interval(scores, seed=3)),
        "standard_error": standard_error(scores),
        "loss": 0.5,
        "rows": 4,
        "scores": [1.0, 0.0, 1.0, 1.0],
    }


def test_more_rows_than_one_pass_takes_keep_their_order(zoo: Zoo) -> None:
    task = make_task(zoo, "llama")
    rows = [task.splits["test"][i % 18] for i in range(150)]
    many = evaluate(zoo.base("llama"), replace(task, splits={"test": rows}), "test", metric="accuracy")
    once = evaluate(zoo.base("llama"), task, "test", metric="accuracy")
    assert many.predictions == tuple(once.predictions[i % 18] for i in range(150))


@torch.inference_mode()
def generated_alone(model: Any, tokenizer: Any, row: EncodedRow, task: EncodedTask) -> str:
    """Greedy decoding by hand: no padding, no cache."""
    ids = list(row.prompt)
    for _ in range(task.max_new_tokens):
        token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == task.eos_id:
            break
        ids.append(token)
    return str(tokenizer.decode(ids[len(row.prompt) :], skip_special_tokens=True).strip())


def test_what_a_model_says_behind_the_end_of_its_turn_does_not_count(zoo: Zoo) -> None:
    tokenizer, model = zoo.tokenizer("llama"), zoo.base("llama")
    task = encode(make_data("generation", {"train": DIALOGUES[:3]}), tokenizer, "causal", max_tokens=128)
    task = replace(task, max_new_tokens=8)
    row = task.splits["test"][0]
    said = model.generate(torch.tensor([row.prompt]), max_new_tokens=8, do_sample=False)[0, len(row.prompt) :].tolist()
    third = next(i for i in range(2, 8) if said[i] not in said[:i])
    ended = replace(task, splits={"test": [row]}, other_ends=(said[third],))
    found = evaluate(model, ended, "test", metric="rouge_l", tokenizer=tokenizer)
    assert found.predictions == (tokenizer.decode(said[:third], skip_special_tokens=True).strip(),)


@pytest.mark.parametrize("name", CAUSAL)
def test_generation_in_padded_batches_gives_what_each_row_gives_alone(zoo: Zoo, name: str) -> None:
    tokenizer = zoo.tokenizer(name)
    rows = [(prompt * (1 + i % 3), target) for i, (prompt, target) in enumerate(DIALOGUES[:5])]
    task = encode(make_data("generation", {"train": rows}), tokenizer, "causal", max_tokens=200)
    task = replace(task, max_new_tokens=6, pad_id=EOS)  # as many tokenizers pad: no mask is guessed from that
    model = zoo.base(name)
    result = evaluate(model, task, "test", metric="rouge_l", tokenizer=tokenizer)
    expected = [generated_alone(model, tokenizer, row, task) for row in task.splits["test"]]
    assert list(result.predictions) == expected
    assert len(set(expected)) > 1

    loss, tokens = 0.0, 0
    for row, prediction, figure in zip(task.splits["test"], result.predictions, result.scores, strict=True):
        loss -= log_likelihoods(model, row, (tuple(row.completion),)).item()
        tokens += len(row.completion)
        assert figure == score("rouge_l", prediction, row.references)
    assert result.loss == pytest.approx(loss / tokens, rel=1e-4)


@pytest.mark.parametrize("rows_at_once", [0, 1.5])
def test_logits_of_a_large_vocabulary_are_made_for_few_rows_at_once(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, rows_at_once: float
) -> None:
    """The loss is the same but for rounding, and never more is held than allowed, but for one row."""
    tokenizer, model = zoo.tokenizer("llama"), zoo.base("llama")
    task = encode(make_data("generation", {"train": DIALOGUES}), tokenizer, "causal", max_tokens=128)
    whole = evaluate(model, task, "test", metric="rouge_l", tokenizer=tokenizer)
    longest = max(len(row.completion) for row in task.splits["test"])
    limit = int(rows_at_once * longest) * model.config.vocab_size
    monkeypatch.setattr("objectives.accuracy.LOGITS", limit)
    sizes: list[int] = []

    def logits_at_(*args: Any, **named: Any) -> torch.Tensor:
        found = logits_at(*args, **named)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr("objectives.accuracy.logits_at", logits_at_)
    parts = evaluate(model, task, "test", metric="rouge_l", tokenizer=tokenizer)
    assert parts.predictions == whole.predictions
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert len(sizes) > 1
    assert max(sizes) <= max(limit, longest * model.config.vocab_size)


@pytest.mark.parametrize("by_prompt", [False, True])
def test_log_probabilities_of_a_large_vocabulary_are_taken_of_few_positions_at_once(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, by_prompt: bool
) -> None:
    """Labels of several tokens have several positions a row; the result is the same to the bit."""
    model = zoo.base("llama")
    task = labelled([(10 + i, 20 + i, 21, EOS) for i in range(8)], rows=24)
    whole = evaluate(model, task, "test", metric="accuracy", by_prompt=by_prompt)
    limit = 3 * model.config.vocab_size
    monkeypatch.setattr("objectives.label_scoring.LOGITS", limit)
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "log_softmax" in str(func):
                sizes.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    with Sizes():
        parts = evaluate(model, task, "test", metric="accuracy", by_prompt=by_prompt)
    assert parts == whole
    assert len(sizes) > 1
    assert max(sizes) == limit


def test_many_labels_take_memory_by_their_pairs_and_not_by_pairs_of_their_tokens() -> None:
    """2000 labels of up to 15 tokens took a gigabyte in every evaluation, 5000 six."""
    labels = [(7, *divmod(label, 8), *[9] * (label % 5), EOS) for label in range(100)]
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, torch.Tensor) else largest
            return out

    with Largest():
        trie = LabelTrie(labels)
    assert largest == len(labels) ** 2
    for scored, one in enumerate(labels[:20]):
        for other, ids in enumerate(labels):
            shared = next((i for i, (a, b) in enumerate(zip(one, ids, strict=False)) if a != b), len(ids))
            assert trie.known[scored, other] == min(shared + 1, len(ids))


@pytest.mark.parametrize("metric", ["exact_match", "rouge_l", "token_f1", "bleu"])
def test_a_model_that_knows_the_answers_scores_one(zoo: Zoo, metric: str) -> None:
    tokenizer = zoo.tokenizer("llama")
    task = encode(make_data("generation", {"train": DIALOGUES[:3]}), tokenizer, "causal", max_tokens=128)
    several = [replace(row, references=("none of these", *row.references)) for row in task.splits["test"]]
    task = replace(task, splits={**task.splits, "test": several})
    space = zoo.space("llama")
    model = attach(zoo.base("llama"), space, all_groups(space, 16), seed=0).get_base_model()
    before = evaluate(model.eval(), task, "test", metric=metric, tokenizer=tokenizer)
    train(model, task, TrainingSettings(steps=60, batch_size=3, learning_rate=2e-2))
    after = evaluate(model, task, "test", metric=metric, tokenizer=tokenizer)
    assert after.predictions == tuple(target for _, target in DIALOGUES[:3]) and after.scores == (1.0, 1.0, 1.0)
    assert sum(before.scores) < 1.5 and after.loss < 0.1 < before.loss


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_scored_by_its_head_row_by_row(zoo: Zoo, name: str) -> None:
    model, task = zoo.base(name), make_task(zoo, name)
    result = evaluate(model, task, "test", metric="accuracy")
    loss = 0.0
    for row, prediction, figure in zip(task.splits["test"], result.predictions, result.scores, strict=True):
        with torch.inference_mode():
            log_p = model(input_ids=torch.tensor([row.prompt])).logits[0].double().log_softmax(-1)
        chosen = task.labels.index(prediction)
        assert log_p[chosen] >= log_p.max() - 1e-5
        assert figure == float(chosen == row.label)
        loss -= log_p[row.label].item()
    assert result.loss == pytest.approx(loss / len(result.scores), rel=1e-5)


def test_a_broken_model_still_gives_a_figure_for_every_row(zoo: Zoo) -> None:
    model = zoo.copy("llama")
    model.lm_head.weight.data.fill_(math.nan)
    result = evaluate(model, make_task(zoo, "llama"), "test", metric="accuracy")
    assert len(result.scores) == 18
    assert math.isnan(result.loss)


@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_passes_take_fewer_rows_where_a_model_keeps_much_of_each_token(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Of a Llama 2 of 7 billion parameters 17 GB were kept, and a smaller --max-tokens only put more rows together."""
    tokenizer, model, task = zoo.tokenizer("llama"), zoo.base("llama"), make_task(zoo, "llama", kind)
    options = {"metric": "rouge_l" if kind == "generation" else "accuracy", "tokenizer": tokenizer, "by_prompt": True}
    whole = evaluate(model, task, "test", **options)
    of_each = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads of them, their width, bytes
    longest = max(len(row.prompt) for row in task.splits["test"]) + task.max_new_tokens * (kind == "generation")
    monkeypatch.setattr("objectives.accuracy._STATE", of_each * longest * 2)
    rows: list[int] = []

    def count(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows.append(len(kwargs["input_ids"]))

    with model.model.register_forward_pre_hook(count, with_kwargs=True):
        parts = evaluate(model, task, "test", **options)
    assert parts.predictions == whole.predictions
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert max(rows) < len(task.splits["test"])
    widest = max(batches_of([longest] * 9, torch.device("cuda"), of_each), key=len)
    assert len(widest) == 2
    monkeypatch.setattr("objectives.accuracy._STATE", 1)
    assert batches_of([longest] * 3, torch.device("cpu"), of_each) == [[0], [1], [2]]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=600))
def test_a_gpu_takes_more_rows_a_pass_and_no_more_tokens(lengths: list[int]) -> None:
    few, many = (batches_of(lengths, torch.device(kind)) for kind in ("cpu", "cuda"))
    assert [row for batch in many for row in batch] == [row for batch in few for row in batch]
    assert sorted(row for batch in many for row in batch) == list(range(len(lengths)))
    assert max(map(len, few)) <= 64
    for batch in many:
        longest = max(1, *(lengths[row] for row in batch))
        assert len(batch) <= 64 or len(batch) * longest <= 64 * 512
    if max(lengths) <= 50:
        assert len(many) == 1
