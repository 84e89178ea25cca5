"""Tokenised once, as it comes out in place: behind its context, cut where it may be cut, each label by itself."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from transformers import LayoutLMv3Tokenizer

from objectives.encoding import EncodedTask, _prefix_free, decoded, encode
from objectives.errors import ModelError, RequestError
from tests.objectives.tiny import make_data, make_tokenizer, make_word_tokenizer

BOS, EOS, PAD = 0, 1, 2
QUESTIONS = [("where is the city of Rome?", "location"), ("who wrote this book?", "person")]
DIALOGUES = [("name : The Eagle | food : French", "The Eagle is a cheap French place."), ("price : cheap", "cheap")]
CHAT = "{% for m in messages %}<user>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encoded(rows: list[tuple[str, str]], task: Any = "classification", **options: Any) -> EncodedTask:
    options.setdefault("max_tokens", 64)
    tokenizer = options.pop("tokenizer", None) or make_tokenizer()
    return encode(make_data(task, {"train": rows}), tokenizer, "causal", **options)


def test_prompt_and_label_make_the_tokens_of_the_whole_text() -> None:
    tokenizer = make_tokenizer()
    task = encoded(QUESTIONS)
    for row, (text, label) in zip(task.splits["train"], QUESTIONS, strict=True):
        assert row.prompt + row.completion == [BOS, *ids(tokenizer, f"{text}\nAnswer: {label}")]
        assert task.labels[row.label] == label
        assert tuple(row.completion) == task.label_ids[row.label]


def test_a_longer_completion_of_validation_has_room_and_is_not_waited_for() -> None:
    """No row is longer than the model's context; and how much is generated is learned from train alone."""
    long = "the cat sat on the mat. " * 9
    rows = {"train": [(long, "cheap"), ("price", "cheap")], "validation": [(long, "cheap"), ("price", long[:50])]}
    task = encode(make_data("generation", rows), make_tokenizer(), "causal", max_tokens=60)
    of_train, of_validation = (max(len(row.completion) for row in task.splits[s]) for s in ("train", "validation"))
    assert of_train < of_validation < 29
    assert task.max_new_tokens == of_train
    assert task.longest_prompt == max(len(row.prompt) for row in task.splits["train"]) == 60 - of_validation


def test_a_completion_is_tokenised_behind_its_context_not_alone() -> None:
    class SpaceInFront:
        """As SentencePiece with its dummy prefix: a text that stands alone gets a space in front."""

        def __init__(self) -> None:
            self._inner = make_tokenizer()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __call__(self, text: str | list[str], **options: Any) -> Any:
            return self._inner([" " + t if t else t for t in text] if isinstance(text, list) else " " + text, **options)

    tokenizer = make_tokenizer()
    task = encoded(QUESTIONS, tokenizer=SpaceInFront(), template="{text}\n")
    assert task.lead == ""
    assert task.label_ids == (tuple(ids(tokenizer, "location")), tuple(ids(tokenizer, "person")))
    assert ids(tokenizer, " person") != ids(tokenizer, "person")
    no_context = encoded([("where", "location"), ("who", "person")], tokenizer=SpaceInFront(), template="{text}")
    assert no_context.label_ids == (tuple(ids(tokenizer, " location")), tuple(ids(tokenizer, " person")))


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_of_long_documents_no_more_is_held_than_is_kept(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand of ten thousand tokens each take gigabytes, of which a model reads a few hundred."""
    monkeypatch.setattr("objectives.encoding._CHARACTERS", 1 << 12)
    tokenizer = make_tokenizer() if kind == "causal" else make_word_tokenizer()
    rows = [(f"{n} who wrote this book? " * 80, "yes" if n % 2 else "no") for n in range(40)]
    data = make_data("classification", {"train": rows})
    encode(make_data("classification", {"train": QUESTIONS}), tokenizer, kind, max_tokens=24)  # imports what it needs
    tracemalloc.start()
    try:
        encode(data, tokenizer, kind, max_tokens=24)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000, peak


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_many_rows_are_tokenised_some_at_a_time(kind: Any) -> None:
    """What a tokenizer holds of a text it holds of all texts of one call: gigabytes, of a data set of usual size."""

    class Counting:
        def __init__(self) -> None:
            self._inner = make_tokenizer() if kind == "causal" else make_word_tokenizer()
            self.most = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __call__(self, text: str | list[str], **options: Any) -> Any:
            self.most = max(self.most, len(text) if isinstance(text, list) else 1)
            return self._inner(text, **options)

    data = make_data("classification", {"train": [(f"cat {n}", "yes" if n % 2 else "no") for n in range(2500)]})
    counting = Counting()
    task = encode(data, counting, kind, max_tokens=64)
    assert counting.most <= 1000
    alone = [
        encode(replace(data, splits=dict.fromkeys(data.splits, (row,))), Counting(), kind, max_tokens=64)
        for row in data.splits["train"][::499]
    ]
    assert [each.splits["train"][0].prompt for each in alone] == [row.prompt for row in task.splits["train"][::499]]


def test_a_completion_that_would_join_the_end_of_its_prompt_is_tokenised_alone() -> None:
    """The prompt stands there already, and is not read again: what counts is what comes behind it."""
    tokenizer = make_tokenizer(chat="{% for m in messages %}{{ m.content }} nam{% endfor %}")
    task = encoded([("who?", "e"), ("where?", "es")], tokenizer=tokenizer)
    prompt = ids(tokenizer, " nam")
    assert ids(tokenizer, " name")[: len(prompt)] != prompt, "else they would not join"
    assert task.label_ids == (tuple(ids(tokenizer, "e")), tuple(ids(tokenizer, "es")))


def test_a_generated_completion_ends_with_the_end_of_sequence() -> None:
    tokenizer = make_tokenizer()
    task = encoded(DIALOGUES, "generation")
    row = task.splits["train"][0]
    assert row.prompt == [BOS, *ids(tokenizer, DIALOGUES[0][0] + "\nAnswer:")]
    assert row.completion == [*ids(tokenizer, " " + DIALOGUES[0][1]), EOS]
    assert row.label == -1
    assert task.label_ids == task.labels == ()
    assert task.max_new_tokens == max(len(row.completion) for row in task.splits["train"])
    assert task.splits["test"][0].references == (DIALOGUES[0][1],)


def test_marks_of_the_model_that_rows_bring_stand_once() -> None:
    """Completions that end with </s> ended twice, and no answer was theirs: decoded text has no such marks."""
    plain = encoded(DIALOGUES, "generation")
    marked = [(f"<s>{prompt}", f"{completion}</s>\n") for prompt, completion in DIALOGUES]
    task = encoded(marked, "generation")
    for split in ("train", "test"):
        assert task.splits[split] == plain.splits[split]
    assert task.splits["test"][0].references == (DIALOGUES[0][1],)
    long = "the cat sat on the mat. " * 20
    cut = encoded([(f"<s>{long}", "cheap"), (long, "cheap")], "generation", max_tokens=40).splits["train"]
    assert cut[0] == cut[1]
    assert len(cut[0].prompt) + len(cut[0].completion) == 40


def test_without_an_end_of_sequence_a_completion_just_ends() -> None:
    tokenizer = make_tokenizer(eos=False)
    task = encoded(DIALOGUES, "generation", tokenizer=tokenizer)
    completion = ids(tokenizer, " " + DIALOGUES[0][1])
    assert task.splits["train"][0].completion == completion
    assert task.notes() == [
        f"the tokenizer has no end of sequence, so every answer goes on to {len(completion)} tokens, as many as the "
        "longest completion of train has, and is scored with all of them: name a token of the tokenizer as eos_token "
        "in its files"
    ]
    assert not encoded(QUESTIONS, tokenizer=tokenizer).notes(), "labels are not generated"


@pytest.mark.parametrize("behind", [False, True])
def test_the_beginning_of_sequence_stands_once_and_no_end_is_in_the_prompt(behind: bool) -> None:
    for row in encoded(QUESTIONS, tokenizer=make_tokenizer(behind=behind)).splits["train"]:
        assert row.prompt[0] == BOS
        assert row.prompt.count(BOS) == 1
        assert EOS not in row.prompt


def test_a_chat_template_brings_its_own_special_tokens() -> None:
    tokenizer = make_tokenizer(chat="<s>" + CHAT)
    user, bot = tokenizer.convert_tokens_to_ids(["<user>", "<bot>"])
    task = encoded(QUESTIONS, tokenizer=tokenizer)
    assert task.template == "<s><user>{text}\n<bot>"
    row = task.splits["train"][0]
    assert row.prompt == [BOS, user, *ids(tokenizer, QUESTIONS[0][0] + "\n"), bot]
    assert row.completion == ids(tokenizer, "location")


def test_a_long_text_is_cut_at_its_end_and_the_template_stays() -> None:
    tokenizer = make_tokenizer()
    long = "the cat sat on the mat. " * 20
    task = encoded([(long, "location"), QUESTIONS[1]], max_tokens=40)
    cut, whole = task.splits["train"]
    longest = max(map(len, task.label_ids))
    assert len(cut.prompt) == 40 - longest
    tail = ids(tokenizer, "a\nAnswer:")[1:]
    text = cut.prompt[1 : -len(tail)]
    assert cut.prompt == [BOS, *ids(tokenizer, long)[: len(text)], *tail]
    assert whole.prompt == [BOS, *ids(tokenizer, QUESTIONS[1][0] + "\nAnswer:")]
    assert task.cut_prompts == {"train": 1, "validation": 1, "test": 1}
    assert task.notes()[0] == (
        f"train: 1 of 2 inputs cut, so that the prompt has {40 - longest}: a row may have 40 tokens "
        f"(--max-tokens, or the model's context), and the longest label takes {longest}"
    )
    assert len(task.notes()) == 3


def test_a_long_text_keeps_the_end_that_all_rows_bring() -> None:
    """Else what a model answers behind would be the middle of a sentence, in the rows that are cut alone."""
    long = "the cat sat on the mat. " * 20
    rows = [(text + "\n<bot>", label) for text, label in [(long, "location"), *QUESTIONS]]
    cut, whole, _ = encoded(rows, max_tokens=40, template="{text}").splits["validation"]
    end = ids(make_tokenizer(), "\n<bot>")
    assert cut.prompt[: len(cut.prompt) - len(end)] == [BOS, *ids(make_tokenizer(), long)][: len(cut.prompt) - len(end)]
    assert cut.prompt[-len(end) :] == whole.prompt[-len(end) :] == end
    same = [("the same for all", label) for label in ("location", "person")]
    assert encoded(same, max_tokens=10, template="{text}").cut_prompts["train"] == 2


def test_no_row_is_longer_than_allowed_and_none_is_counted_that_was_not_cut() -> None:
    rows = [("cat " * n, "person" if n % 2 else "location") for n in range(1, 60)]
    task = encoded(rows, max_tokens=32)
    lengths = [len(row.prompt) + len(row.completion) for row in task.splits["train"]]
    assert max(lengths) <= 32
    uncut = encoded(rows, max_tokens=10_000).splits["train"]
    differ = sum(a != b for a, b in zip(uncut, task.splits["train"], strict=True))
    assert task.cut_prompts["train"] == differ > 0
    assert not encoded(rows, max_tokens=10_000).notes()


@pytest.mark.parametrize("max_tokens", [40, 41])
def test_generation_halves_the_room_where_the_completion_is_still_to_come(max_tokens: int) -> None:
    long = "the cat sat on the mat. " * 20
    task = encoded(
        [(long, long), (long, "cheap"), ("price", long), ("price", "cheap")], "generation", max_tokens=max_tokens
    )
    for row in task.splits["train"]:
        assert len(row.prompt) + len(row.completion) <= max_tokens
    for row in task.splits["validation"]:
        assert len(row.prompt) + task.max_new_tokens <= max_tokens
    assert task.cut_prompts == task.cut_completions == {"train": 2, "validation": 2, "test": 2}


def test_a_completion_that_was_cut_does_not_end() -> None:
    long = "the cat sat on the mat. " * 20
    row = encoded([("price", long), ("price", "cheap")], "generation", max_tokens=40).splits["train"][0]
    assert len(row.completion) == 19
    assert EOS not in row.completion


def test_one_long_completion_leaves_less_to_all_prompts_which_is_said() -> None:
    """It was told that they were cut to --max-tokens, when they were cut to half of it."""
    long = "the cat sat on the mat. " * 20
    task = encoded([("price", long), *((long, "cheap") for _ in range(5))], "generation", max_tokens=40)
    assert {len(row.prompt) for row in task.splits["train"][1:]} == {21}
    most = "40 tokens (--max-tokens, or the model's context)"
    assert task.notes()[0] == (
        f"train: 5 of 6 inputs cut, so that the prompt has 21: a row may have {most}, "
        "and the longest completion takes 19"
    )
    assert task.notes()[3] == f"train: 1 of 6 completions cut to 19: they may take half of a row's {most}"


def test_completions_that_the_tokenizer_changes_are_told() -> None:
    """No model of it can answer them: with the tokenizer of BERT, Chinese gets spaces and English loses capitals."""
    words = make_word_tokenizer()
    words.eos_token = "[SEP]"
    rows = [("where?", "the city"), ("who?", "The Eagle."), ("what?", "a book " * 40)]
    data = make_data("generation", {"train": rows})
    assert encode(data, words, "causal", max_tokens=40).notes()[0] == (
        "validation: 1 of 3 completions come back from the tokenizer otherwise, such as 'The Eagle.' as 'the eagle .': "
        "no answer can be the same as one of these"
    )
    assert not encoded(DIALOGUES, "generation").notes()


def test_an_answer_keeps_the_spaces_that_a_checkpoint_would_tidy_up() -> None:
    """As servers have it; data sets of parsed text, such as SQL, are full of them, and Llama 3 asks for it."""
    words = make_word_tokenizer()
    words.eos_token = "[SEP]"
    words.clean_up_tokenization_spaces = True
    ids = words("the cat . the mat .", add_special_tokens=False)["input_ids"]
    assert words.decode(ids) == "the cat. the mat."
    said = [words.cls_token_id, *ids, words.eos_token_id, *ids]  # servers leave special tokens out
    assert decoded(words, said, [words.eos_token_id]) == "the cat . the mat ."


def test_every_split_cuts_prompts_alike() -> None:
    rows = [("the cat sat on the mat. " * n, "cheap") for n in range(1, 12)]
    task = encoded(rows, "generation", max_tokens=40)
    assert task.cut_prompts["train"] > 0
    assert [row.prompt for row in task.splits["train"]] == [row.prompt for row in task.splits["test"]]


def test_no_room_for_the_text_is_refused() -> None:
    labels = [("who?", "a location of people in the city"), ("where?", "no")]
    with pytest.raises(RequestError) as caught:
        encoded(labels, max_tokens=12)
    longest = len(ids(make_tokenizer(), "a\nAnswer: a location of people in the city")) - len(
        ids(make_tokenizer(), "a\nAnswer:")
    )
    tail = len(ids(make_tokenizer(), "\nAnswer:"))
    assert str(caught.value) == (
        f"12 tokens (--max-tokens, or the model's context) leave no room for the text beside the template ({1 + tail}) "
        f"and the longest completion ({longest}): raise --max-tokens, or choose a model of a longer context"
    )


def test_a_template_that_leaves_no_room_for_the_text_is_refused() -> None:
    """Else every row had one prompt: the template's beginning."""
    before = "name : The Eagle | food : French | price : cheap. " * 4
    taken = 1 + len(ids(make_tokenizer(), before)) + len(ids(make_tokenizer(), "\nAnswer:"))
    longest = max(len(label) for label in encoded(QUESTIONS).label_ids)
    with pytest.raises(RequestError) as caught:
        encoded(QUESTIONS, max_tokens=taken + longest, template=before + "{text}\nAnswer:")
    assert str(caught.value) == (
        f"{taken + longest} tokens (--max-tokens, or the model's context) leave no room for the text beside the "
        f"template ({taken}) and the longest completion ({longest}): raise --max-tokens, or choose a model of a longer "
        "context"
    )
    task = encoded(QUESTIONS, max_tokens=taken + longest + 2, template=before + "{text}\nAnswer:")
    assert len({tuple(row.prompt) for row in task.splits["train"]}) == 2
    assert {len(row.prompt) for row in task.splits["train"]} == {taken + 2}


def test_a_template_that_has_the_beginning_of_sequence_itself_gets_no_second_one() -> None:
    task = encoded(QUESTIONS, template="<s>{text}\nAnswer:")
    assert [row.prompt for row in task.splits["train"]] == [row.prompt for row in encoded(QUESTIONS).splits["train"]]
    assert task.first_ids == ()


def test_a_label_that_begins_another_is_ended() -> None:
    tokenizer = make_tokenizer()
    task = encoded([("cats?", "no"), ("dogs?", "not sure"), ("mats?", "no way")])
    assert task.labels == ("no", "no way", "not sure")
    assert task.label_ids == tuple((*ids(tokenizer, " " + label), EOS) for label in task.labels)
    for a in task.label_ids:
        assert [b for b in task.label_ids if b[: len(a)] == a] == [a]


def test_thousands_of_labels_are_compared_in_order_not_each_with_each() -> None:
    labels = [(n % 7, n, n % 11) for n in range(20_000)]
    start = time.process_time()
    assert _prefix_free(labels, EOS, [str(ids) for ids in labels]) == tuple(labels)
    longer = [*labels, (*labels[0], 5)]
    assert _prefix_free(longer, EOS, [str(ids) for ids in longer]) == tuple((*ids, EOS) for ids in longer)
    assert time.process_time() - start < 1


def test_labels_that_do_not_begin_each_other_are_not_ended() -> None:
    tokenizer = make_tokenizer()
    assert encoded(QUESTIONS).label_ids == tuple(tuple(ids(tokenizer, " " + x)) for x in ("location", "person"))


def test_a_label_that_begins_another_needs_an_end_of_sequence() -> None:
    with pytest.raises(RequestError) as caught:
        encoded([("cats?", "no"), ("dogs?", "no way")], tokenizer=make_tokenizer(eos=False))
    assert str(caught.value) == ("one label begins another and the tokenizer has no end of sequence: rename the labels")


def test_labels_of_equal_tokens_are_refused() -> None:
    with pytest.raises(RequestError) as caught:
        lower = make_word_tokenizer()
        encode(
            make_data("classification", {"train": [("who?", "Person"), ("where?", "city"), ("who?", "person")]}),
            lower,
            "causal",
            max_tokens=64,
        )
    assert str(caught.value) == (
        "labels 'Person' and 'person' have the same tokens in this model's tokenizer: rename one of them"
    )
    with pytest.raises(RequestError) as caught:
        _prefix_free([(5,), ()], EOS, ["cat", "\u200b"])
    assert str(caught.value) == "label '\\u200b' has no tokens in this model's tokenizer: rename it"


def test_a_tokenizer_that_wants_more_than_text_is_named() -> None:
    tokenizer = LayoutLMv3Tokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5}, merges=[])
    with pytest.raises(ModelError) as refusal:
        encode(make_data("classification", {"train": QUESTIONS}), tokenizer, "encoder", max_tokens=16)
    assert str(refusal.value) == (
        "LayoutLMv3Tokenizer does not encode plain text (You must provide corresponding bounding boxes): choose a "
        "model of text alone"
    )
