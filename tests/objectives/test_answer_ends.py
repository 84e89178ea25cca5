"""Where an answer ends: with the tokenizer's end of sequence, or as a chat model ends its turn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from objectives.accuracy import evaluate
from tests.objectives.test_encoding import CHAT, EOS, PAD, encoded, ids
from tests.objectives.tiny import Zoo, make_task, make_tokenizer

TURNS = "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<bot>{{ m.content }} "
TURNS += "{% endif %}<pad>\n{% endfor %}{% if add_generation_prompt %}<bot>{% else %}</s>{% endif %}"


def test_an_answer_ends_where_the_checkpoint_ends_a_turn_too() -> None:
    """Only added tokens end one: numbers in a configuration that no tokenizer was made with are pieces of words."""
    tokenizer = make_tokenizer(chat=CHAT)
    bot, piece = tokenizer.convert_tokens_to_ids("<bot>"), ids(tokenizer, "cheap")[0]
    rows = [("what?", "cheap"), ("who?", "cheap<bot>\n"), ("why?", "cheap</s>")]
    task = encoded(rows, "generation", tokenizer=tokenizer, ends=[EOS, bot, piece])
    assert task.ends == [EOS, bot] and task.scoring()["end_ids"] == [EOS, bot]
    assert [row.completion[-1] for row in task.splits["train"]] == [EOS, bot, EOS]
    assert {tuple(row.completion[:-1]) for row in task.splits["train"]} == {tuple(ids(tokenizer, "cheap"))}
    assert [row.references for row in task.splits["test"]] == [("cheap",)] * 3 and not task.notes()
    assert "end_ids" not in encoded(rows[::2], "generation", tokenizer=tokenizer, ends=[EOS]).scoring()


@pytest.mark.parametrize(
    ("template", "ends", "end"),
    [
        (None, [EOS, PAD], PAD),
        ("{text}", [EOS, PAD], PAD),  # of rows that bring the chat template
        ("Q: {text} A:", [EOS, PAD], EOS),
        (None, [EOS], EOS),  # servers would go on behind it
    ],
)
def test_an_answer_is_trained_to_end_as_the_chat_template_ends_a_turn(
    template: str | None, ends: list[int], end: int
) -> None:
    tokenizer = make_tokenizer(chat=TURNS)
    around = "<user>{}<pad>\n<bot>" if template == "{text}" else "{}"
    rows = [(around.format(text), "cheap") for text in ("who", "what")]
    task = encoded(rows, "generation", tokenizer=tokenizer, ends=ends, template=template)
    lead = " " if template == "Q: {text} A:" else ""
    assert task.splits["train"][0].completion == [*ids(tokenizer, f"{lead}cheap"), end]


def test_a_completion_that_brings_a_whole_turn_ends_where_that_does() -> None:
    """As Phi 3's template has it: the end of the turn, a new line, the end of the text."""
    tokenizer = make_tokenizer(chat=TURNS)
    rows = [("what?", "cheap<pad>\n</s>"), ("who?", "cheap</s>")]
    task = encoded(rows, "generation", tokenizer=tokenizer, ends=[EOS, PAD])
    assert [row.completion for row in task.splits["train"]] == [[*ids(tokenizer, "cheap"), end] for end in (PAD, EOS)]
    assert [row.references for row in task.splits["test"]] == [("cheap",)] * 2 and not task.notes()


def test_without_an_end_of_sequence_answers_end_as_the_checkpoint_says() -> None:
    tokenizer = make_tokenizer(eos=False)
    task = encoded([("what?", "cheap"), ("who?", "red")], "generation", tokenizer=tokenizer, ends=[EOS, PAD])
    assert [row.completion[-1] for row in task.splits["train"]] == [EOS, EOS]
    assert (task.eos_id, task.ends, task.notes()) == (None, [EOS, PAD], [])


def test_labels_end_with_the_end_of_sequence_whatever_ends_a_turn() -> None:
    tokenizer = make_tokenizer(chat=TURNS)
    rows = [("what?", "cheap"), ("who?", "cheap food")]
    one, other = (encoded(rows, tokenizer=tokenizer, ends=ends).label_ids for ends in ([EOS], [EOS, PAD]))
    assert one == other and {label[-1] for label in one} == {EOS}


def test_generation_stops_where_all_rows_have_ended(zoo: Zoo) -> None:
    """To go on to the longest completion of train would cost a pass for each token, and change no score."""
    model, task = zoo.base("llama"), make_task(zoo, "llama", "generation")
    row = task.splits["test"][0]
    with torch.inference_mode():
        first = int(model(input_ids=torch.tensor([row.prompt])).logits[0, -1].argmax())
    ended = replace(task, splits={"test": [row]}, max_new_tokens=40, other_ends=(first,))
    passes: list[int] = []
    with model.model.register_forward_pre_hook(lambda *_: passes.append(1)):
        assert evaluate(model, ended, "test", metric="rouge_l", tokenizer=zoo.tokenizer("llama")).predictions == ("",)
    assert len(passes) == 3, "how much state it keeps, the loss, and the prompt"
