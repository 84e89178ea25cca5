"""Messages to an imaginary web shop, composed from :mod:`objectives.demo.phrases`.

A message has a reason for writing, sometimes a second one after it, and may mention a matter that is settled, denied,
or somebody else's. Its label is the first reason. The same clauses occur in all roles, so counting words is not enough:
a model has to bind each clause to its frame, and to mind the order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from objectives.demo import phrases

LABELS: tuple[str, ...] = tuple(sorted(phrases.TOPICS))
SPLITS: dict[str, int] = {"train": 3000, "validation": 500, "test": 1000}

SECOND_REASON = 0.3
#: How many matters are mentioned that are no reason for writing: chosen uniformly from these.
MENTIONS = (0, 1, 1, 1)
#: How often a reply answers a reason for writing; otherwise it answers any matter of the message. Staff that
#: always answers the reason teaches almost the whole task in pretraining, and then every placement does well.
ATTENTIVE = 0.75
TYPO_RATE = 0.02

T = TypeVar("T")


class Message(NamedTuple):
    text: str
    label: str
    reply: str


def messages(seed: int) -> Iterator[Message]:
    """An endless stream, the same for the same seed on every machine and Python version; texts may repeat."""
    draw = _Draw(seed)
    while True:
        yield _message(draw)


def task_rows(seed: int) -> dict[str, list[dict[str, str]]]:
    """The rows ``{"text", "label"}`` of each split. No text occurs twice, within a split or across splits."""
    stream = messages(seed)
    seen: set[str] = set()
    splits: dict[str, list[dict[str, str]]] = {}
    for split, size in SPLITS.items():
        rows: list[dict[str, str]] = []
        while len(rows) < size:
            text, label, _ = next(stream)
            if text not in seen:
                seen.add(text)
                rows.append({"text": text, "label": label})
        splits[split] = rows
    return splits


def transcripts(seed: int, count: int, exclude: set[str]) -> list[str]:
    """``count`` messages, each with a reply of the staff: what the model is pretrained on.

    "Answer:" is not in them, and labels are only ordinary words in some replies, so the pretrained model knows the
    language but not the task. Texts in ``exclude`` are left out, so that it has read no row of the task.
    """
    stream = (message for message in messages(seed) if message.text not in exclude)
    return [f"{message.text}\n{message.reply}" for message in islice(stream, count)]


class _Draw:
    """Choices made from ``random.random()`` alone: Python promises its sequence, and that of no other method."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def below(self, stop: int) -> int:
        return int(self._random() * stop)

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` different items, in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def one(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]


def _message(draw: _Draw) -> Message:
    topics = draw.several(LABELS, 2 + max(MENTIONS))
    reasons = topics[: 2 if draw.chance(SECOND_REASON) else 1]
    mentions = topics[2 : 2 + draw.one(MENTIONS)]
    sentences = [_sentence(draw, phrases.OPEN_FRAMES, phrases.TOPICS[reason]) for reason in reasons]
    for mention in mentions:
        sentence = _sentence(draw, phrases.CLOSED_FRAMES, phrases.TOPICS[mention])
        sentences.insert(draw.below(len(sentences) + 1), sentence)
    if draw.chance(0.3):
        sentences.insert(0, _fill(draw, draw.one(phrases.GREETINGS)))
    if draw.chance(0.2):
        sentences.append(_fill(draw, draw.one(phrases.CLOSINGS)))
    text = " ".join(_typos(draw, sentence) for sentence in sentences)
    answered = draw.one(reasons if draw.chance(ATTENTIVE) else reasons + mentions)
    return Message(text, reasons[0], draw.one(phrases.TOPICS[answered].replies))


def _sentence(draw: _Draw, frames: Sequence[str], topic: phrases.Topic) -> str:
    sentence = draw.one(frames).format(clause=_fill(draw, draw.one(topic.clauses)))
    return f"{sentence[0].upper()}{sentence[1:]}."


def _fill(draw: _Draw, template: str) -> str:
    item = draw.one(phrases.ITEMS)
    return template.format(
        item=item,
        other=draw.one([other for other in phrases.ITEMS if other != item]),
        name=draw.one(phrases.NAMES),
        count=draw.one(phrases.COUNTS),
        price=draw.one(phrases.PRICES),
    )


def _typos(draw: _Draw, sentence: str) -> str:
    return " ".join(_typo(draw, word) if draw.chance(TYPO_RATE) else word for word in sentence.split())


def _typo(draw: _Draw, word: str) -> str:
    """Two neighbouring letters swapped, or one left out; words under four letters stay."""
    if len(word) < 4:
        return word
    at = 1 + draw.below(len(word) - 2)
    if draw.chance(0.5):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :]
