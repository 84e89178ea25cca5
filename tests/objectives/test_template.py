"""What stands around the text of a row, and between it and what follows."""

from __future__ import annotations

from typing import Any

import pytest

from objectives.encoding import EncodedTask, encode
from objectives.errors import RequestError
from objectives.template import Template
from tests.objectives.tiny import make_data, make_tokenizer, make_word_tokenizer

QUESTIONS = [("where is the city of Rome?", "location"), ("who wrote this book?", "person")]
CHAT = "{% for m in messages %}<user>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}[ {{ m.content }} ]{% else %}"
    " {{ m.content }}{% endif %}{% endfor %}"
)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encoded(template: str | None = None, chat: str | None = None) -> EncodedTask:
    """The questions, in a template or with a tokenizer that has a chat template."""
    data = make_data("classification", {"train": QUESTIONS})
    return encode(data, make_tokenizer(chat=chat), "causal", max_tokens=64, template=template)


@pytest.mark.parametrize(
    ("answer", "lead", "end"),
    [
        (" {{ m.content }}</s>", " ", "</s>"),
        ("{{ '\n' + m.content }}", "\n", ""),
        ("{{ m.content }}", "", ""),
        ("{{ m.content }}<bot>", "", "<bot>"),
    ],
)
@pytest.mark.parametrize("trims", [False, True])
def test_a_completion_stands_behind_the_prompt_as_the_chat_template_has_it(
    answer: str, lead: str, end: str, trims: bool
) -> None:
    """Llama 2 and Mistral have a space there: without it labels are other tokens than those that they know."""
    asked = "{% if m.role == 'user' %}[ {{ m.content" + " | trim" * trims + " }} ]"
    chat = "{% for m in messages %}" + asked + "{% else %}" + answer + "{% endif %}{% endfor %}"
    expected = Template("[ ", " ]", lead, special=False, end=end, trims=trims)
    assert Template.choose(make_tokenizer(chat=chat), None) == expected
    assert encoded(chat=chat).label_ids[1] == tuple(ids(make_tokenizer(), f"]{lead}person")[1:])


def test_what_else_a_chat_template_has_in_front_of_an_answer_is_told() -> None:
    """Servers' prompts end without it, and a base model that begins with it is taken for a worse one than it is."""
    chat = (
        "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<bot>\n{% else %}"
        "<think>\n</think>\n{{ m.content }}{% endif %}{% endfor %}"
    )
    task = encoded(chat=chat)
    assert (task.template, task.lead) == ("<user>{text}<bot>\n", "")
    assert task.notes() == [
        "the chat template has '<think>\\n</think>\\n' in front of an answer, and prompts end without it, as those of "
        "servers do: adapters learn to leave it out, but the base model may begin with it, and its figures are then "
        "too low; to have it in prompts, give a --template that ends with it"
    ]
    asked = encoded("<user>{text}<bot>\\n<think>\\n</think>\\n", chat=chat)
    assert (asked.template, asked.notes()) == ("<user>{text}<bot>\n<think>\n</think>\n", [])


@pytest.mark.parametrize(("closed", "is_told"), [("", True), ("\n</think>\n", False)])
def test_answers_within_the_thoughts_that_a_chat_template_begins_are_told(closed: str, is_told: bool) -> None:
    """As those of DeepSeek-R1 and of Qwen3's thinking models: servers would show them as thoughts, and no answer."""
    notes = encoded(chat=CHAT + "<think>\n" + closed).notes()
    assert notes == is_told * [
        "the chat template ends prompts within the model's thoughts (<think>), so answers are trained and scored as "
        "thoughts, and a server that tells thoughts from answers takes them for such: give a --template that ends with "
        "</think>"
    ]


@pytest.mark.parametrize("template", [None, "chat"])
def test_the_chat_template_is_the_default_where_there_is_one(template: str | None) -> None:
    assert Template.choose(make_tokenizer(chat=CHAT), template).text == "<user>{text}\n<bot>"


def test_without_a_chat_template_there_is_a_plain_one() -> None:
    assert Template.choose(make_tokenizer(), None) == Template("", "\nAnswer:", lead=" ", special=True)


def test_a_template_of_ones_own_wins_over_the_chat_template_and_may_hold_an_escaped_newline() -> None:
    chosen = Template.choose(make_tokenizer(chat=CHAT), "Q: {text}\\nA:\\n")
    assert chosen == Template("Q: ", "\nA:\n", lead="", special=True)


def test_rows_that_are_put_into_a_chat_template_twice_are_told() -> None:
    rows = [("<user>who?\n<bot>", "person"), ("where?", "location"), ("a <b> who?", "person")]
    data = make_data("classification", {"train": rows})
    tokenizer = make_tokenizer(chat=CHAT)
    note = (
        "train: 1 of 3 inputs hold marks of the chat template, and get it: give --template '{text}' if they had it "
        "before"
    )
    assert encode(data, tokenizer, "causal", max_tokens=64).notes() == [note]
    assert not encode(data, tokenizer, "causal", max_tokens=64, template="{text}").notes()
    data = make_data("classification", {"train": [("[ who? ]", "person"), ("<s>where</s>?", "location"), ("[", "hm")]})
    assert encode(data, make_tokenizer(chat=SPACED), "causal", max_tokens=64).notes() == [note], "HTML is no mark of it"


@pytest.mark.parametrize(
    ("end", "chat", "lead"),
    [
        ("\n<bot>", CHAT, ""),
        (" ]", SPACED, " "),
        ("\n<bot>", None, " "),
        ("\n<bot>", "{{ raise_exception('no') }}", " "),
        ("?", CHAT, " "),
        ("", CHAT, " "),
    ],
)
def test_rows_that_bring_their_template_are_answered_as_it_has_it(end: str, chat: str | None, lead: str) -> None:
    """As the note on rows that are put into a chat template twice advises."""
    data = make_data("classification", {"train": [(text + end, label) for text, label in QUESTIONS]})
    if not end:
        data = make_data("classification", {"train": [("where", "location"), ("who is this", "person")]})
    task = encode(data, make_tokenizer(chat=chat), "causal", max_tokens=64, template="{text}")
    assert (task.template, task.lead) == ("{text}", lead)
    assert task.label_ids[1] == tuple(ids(make_tokenizer(), f"]{lead}person")[1:])


def test_a_template_of_ones_own_is_led_as_it_says_even_if_it_ends_as_the_chat_template_does() -> None:
    data = make_data("classification", {"train": QUESTIONS})
    task = encode(data, make_tokenizer(chat=CHAT), "causal", max_tokens=64, template="Q: {text}\\n<bot>")
    assert (task.template, task.lead) == ("Q: {text}\n<bot>", " ")


@pytest.mark.parametrize("space", ["", " "])
def test_a_space_at_the_end_of_a_template_belongs_to_the_completion(space: str) -> None:
    """A Llama of 260 thousand parameters got 0.60 and 0.54 on TREC-6 with it in the prompt, else 0.62 and 0.69."""
    task = encoded(template="Q: {text}\nA:" + space)
    assert (task.template, task.lead) == ("Q: {text}\nA:", " ")
    assert task.label_ids[1] == tuple(ids(make_tokenizer(), " person"))


@pytest.mark.parametrize("template", ["", "no place", "{text} {text}"])
def test_a_template_holds_the_text_exactly_once(template: str) -> None:
    with pytest.raises(RequestError) as caught:
        encoded(template=template)
    assert str(caught.value) == (f"--template {template!r} must hold {{text}} exactly once, where the row's text goes")


def test_chat_needs_a_chat_template() -> None:
    with pytest.raises(RequestError) as caught:
        encoded(template="chat")
    assert str(caught.value) == (
        "--template chat: this model's tokenizer has no chat template; pass a template such as '{text}\\nAnswer:' "
        "or leave the option out"
    )


@pytest.mark.parametrize(
    ("form", "day"),
    [("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d %H:%M:%S", "2024-07-26 00:00:00"), ("%A, %-d.%-m.%y", "Friday, 26.7.24")],
)
def test_a_chat_template_that_tells_the_date_is_the_same_every_day(form: str, day: str) -> None:
    dated = make_tokenizer(chat=f"Today is {{{{ strftime_now('{form}') }}}}. " + CHAT)
    assert Template.choose(dated, None).text == f"Today is {day}. <user>{{text}}\n<bot>"


@pytest.mark.parametrize("part", ["m.content", "m.content[0].text"])
@pytest.mark.parametrize("end", ["", " | trim", ".lstrip()"])
def test_a_prompt_has_the_white_space_around_a_text_that_the_chat_template_leaves(part: str, end: str) -> None:
    """Llama 3's and Gemma's leave none: a server would ask in other tokens than the adapter was trained on."""
    chat = f"{{% for m in messages %}}<user> {{{{ {part}{end} }}}} {{% endfor %}}<bot>"
    tokenizer = make_tokenizer(chat=chat)
    rows = [("\n who wrote this book?\n", "person"), ("where is Rome? " * 20, "location")]
    task = encode(make_data("classification", {"train": rows}), tokenizer, "causal", max_tokens=64)
    whole, cut = ([*row.prompt] for row in task.splits["train"])
    says = rows[0][0] if "content[0]" not in part else [{"type": "text", "text": rows[0][0]}]
    served = tokenizer.apply_chat_template([{"role": "user", "content": says}], tokenize=False)
    assert tokenizer.decode(whole) == (served if end != ".lstrip()" else served.replace("\n", ""))
    assert tokenizer.decode(cut).startswith("<user> where is Rome?")
    assert task.template == "<user> {text} <bot>"
    assert task.scoring().get("trims", False) == bool(end)


def test_a_chat_template_of_parts_is_given_parts() -> None:
    parts = "{% for m in messages %}<user>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}<bot>"
    assert Template.choose(make_tokenizer(chat=parts), None).text == "<user>{text}<bot>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("<user><bot>", "it does not show what the user says"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ raise_exception('no system turn\\nin messages') }}", "no system turn"),
        ("{{ raise_exception('') }}", "TemplateError"),
        ("{{ 1 // (messages | length - 1) }}", "integer division or modulo by zero"),
    ],
)
def test_a_chat_template_that_does_not_say_the_text_is_refused(template: str, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        Template.choose(make_tokenizer(chat=template), None)
    assert str(refusal.value) == (
        f"the chat template of this model's tokenizer cannot be used for a single turn ({reason}): pass a --template "
        "such as '{text}\\nAnswer:'"
    )


@pytest.mark.parametrize(("kind", "share"), [("causal", 33), ("encoder", 25)])
def test_inputs_of_a_script_that_the_tokenizer_does_not_know_are_told(kind: Any, share: int) -> None:
    def notes(*texts: str) -> list[str]:
        data = make_data("classification", {"train": list(zip(texts, ["yes", "no"], strict=True))})
        template = "{text}" if kind == "causal" else None
        return encode(data, make_word_tokenizer(), kind, max_tokens=64, template=template).notes()

    assert notes("\u732b", "cat \u72ac city") == [
        f"train: {share}% of the tokens of inputs are [UNK], which says nothing: the tokenizer does not know their "
        "language or script; choose a model that was trained on it"
    ]
    assert not notes("cat", "the cat sat on the mat " * 3 + "\u72ac")


def test_the_token_that_begins_each_input_is_no_unknown_one() -> None:
    """OPT's is its unknown token as well, and tokenizers of bytes know every script."""
    tokenizer = make_tokenizer()
    tokenizer.unk_token = tokenizer.bos_token
    short = make_data("classification", {"train": [("hi", "yes"), ("who", "no")]})
    assert not encode(short, tokenizer, "causal", max_tokens=64, template="{text}").notes()
