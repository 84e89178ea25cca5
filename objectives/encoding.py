"""Text to token ids, once per search: prompts, completions, labels, truncation."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from objectives.batches import in_parts
from objectives.data import Row, Task, TaskData
from objectives.errors import ModelError, RequestError
from objectives.rows import shorten
from objectives.template import Template

#: Characters of the texts that are tokenised at once, and as how many more a text counts, whatever it says.
_CHARACTERS, _TEXT = 1 << 20, 1 << 11


@dataclass(frozen=True)
class EncodedRow:
    prompt: list[int]
    completion: list[int]  # ids that the loss is on, end of sequence included; empty for an encoder
    label: int = -1  # index into the labels; -1 for generation
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodedTask:
    """Everything a worker needs of the data: plain lists, no tokenizer calls left but decoding."""

    task: Task
    kind: Literal["causal", "encoder"]
    splits: Mapping[str, list[EncodedRow]]
    labels: tuple[str, ...]
    label_ids: tuple[tuple[int, ...], ...]  # token ids of each label, prefix-free; () for an encoder
    pad_id: int
    eos_id: int | None
    max_new_tokens: int
    max_tokens: int
    template: str
    lead: str
    longest_prompt: int  # that was let stand, in tokens; the longest completion has the rest of max_tokens
    cut_prompts: Mapping[str, int]  # split -> rows whose input was cut
    cut_completions: Mapping[str, int]
    first_ids: tuple[int, ...] = ()  # special tokens in front of every prompt
    doubts: tuple[str, ...] = ()  # what is odd about model and data together, in sentences for the user
    other_ends: tuple[int, ...] = ()  # that end an answer as eos_id does, such as the end of a turn
    trims: bool = False  # whether the chat template takes away the white space around a text

    @property
    def ends(self) -> list[int]:
        """Tokens at which an answer is over; none of what follows counts."""
        return [token for token in (self.eos_id, *self.other_ends) if token is not None]

    def scoring(self) -> dict[str, Any]:
        """What another program needs beside model and rows to score as this one does; ready for JSON."""
        told = {
            "template": self.template,
            "first_ids": list(self.first_ids),
            "label_ids": dict(zip(self.labels, map(list, self.label_ids), strict=False)),
            "max_tokens": self.max_tokens,
            "max_new_tokens": self.max_new_tokens,
            "eos_id": self.eos_id,
        }
        return told | ({"end_ids": self.ends} if self.other_ends else {}) | ({"trims": True} if self.trims else {})

    def notes(self) -> list[str]:
        most = f"{self.max_tokens} tokens (--max-tokens, or the model's context)"
        prompts = f"inputs cut, so that the prompt has {most}"
        if rest := self.max_tokens - self.longest_prompt:
            longest = "completion" if self.task == "generation" else "label"
            prompts = (
                f"inputs cut, so that the prompt has {self.longest_prompt}: a row may have {most}, "
                f"and the longest {longest} takes {rest}"
            )
        completions = f"completions cut to {self.max_tokens // 2 - 1}: they may take half of a row's {most}"
        kinds = ((self.cut_prompts, prompts), (self.cut_completions, completions))
        return list(self.doubts) + [
            f"{split}: {count} of {len(self.splits[split])} {said}"
            for counts, said in kinds
            for split, count in counts.items()
            if count
        ]


def encode(
    data: TaskData,
    tokenizer: Any,
    kind: Literal["causal", "encoder"],
    *,
    max_tokens: int,
    template: str | None = None,
    ends: Sequence[int] = (),
) -> EncodedTask:
    """Tokenise every row. An input too long is cut at its end, so that the template's tail always stays, be it one that
    all rows of train bring; that of an encoder where its tokenizer cuts. ``ends`` are tokens at which the checkpoint
    ends an answer, as servers have it; those that are pieces of text are left out. Completions are trained to end as
    the chat template ends an answer, if that is one of them, else with the end of sequence.

    What data sets bring of the model's own marks stands once: a beginning of sequence in the input, an end behind the
    completion, which is taken from the references too.

    Raises RequestError where ``max_tokens`` leaves no room beside the template and a label, or beside an encoder's
    special tokens, and for a template of an encoder.
    """
    if kind == "encoder":
        if template not in (None, "auto"):
            raise RequestError(
                f"--template {template!r} is for causal models, and this is an encoder, which reads the text alone: "
                "leave it out"
            )
        return _encode_for_encoder(data, tokenizer, max_tokens)
    chosen = Template.choose(tokenizer, template)
    own_end = "" if chosen.after else _common_end([row.text for row in data.splits["train"]])
    after = chosen.after or own_end
    chosen = chosen.behind(after, tokenizer)
    (before,) = _ids(tokenizer, [chosen.before])
    first = _leading_specials(tokenizer) if chosen.special else []
    if before[: len(first)] == first:  # the template has them itself
        first = []
    (tail,) = _continuations(tokenizer, "a", [after])
    eos = tokenizer.eos_token_id

    def begun(ids: list[int]) -> list[int]:
        return ids if ids[: len(first)] == first else first + ids

    added = {**getattr(tokenizer, "added_tokens_decoder", {}), **dict.fromkeys(tokenizer.all_special_ids)}
    other_ends = [token for token in ends if token in added and token != eos] if data.task == "generation" else []
    marks = {tokenizer.convert_ids_to_tokens(token): token for token in other_ends}
    if tokenizer.eos_token:
        marks[tokenizer.eos_token] = eos
    # Chat models go on to end their turns as they know to, where servers take that for an end.
    usual_end = next(
        (token for mark, token in marks.items() if chosen.end.lstrip().startswith(mark)),
        next(iter(other_ends), None) if eos is None else eos,
    )

    def ended(text: str) -> tuple[str, int | None]:
        """Without the ends that it brings, and the first of them."""
        first_end = usual_end
        while mark := next((mark for mark in marks if text.rstrip().endswith(mark)), None):
            text, first_end = text.rstrip().removesuffix(mark), marks[mark]
        return text, first_end

    def completions(texts: Sequence[str]) -> list[list[int]]:
        return _continuations(tokenizer, "a" + after, [chosen.lead + text for text in texts])

    label_ids: tuple[tuple[int, ...], ...] = ()
    if data.task == "classification":
        label_ids = _prefix_free([tuple(ids) for ids in completions(data.labels)], eos, data.labels)
    index = {label: i for i, label in enumerate(data.labels)}
    targets: dict[str, list[_Target]] = {}
    for split, rows in data.splits.items():
        if data.task == "classification":
            labels = [index[row.target] for row in rows]
            targets[split] = [_Target(list(label_ids[label]), label) for label in labels]
        else:
            texts, their_ends = zip(*(ended(row.target) for row in rows), strict=True)
            whole = zip(completions(texts), their_ends, strict=True)
            targets[split] = [_generated(ids, end, max_tokens // 2) for ids, end in whole]
    # One limit for all prompts: a model is judged on prompts that were cut as those that it was trained on.
    longest = max(len(target.ids) for split in targets.values() for target in split)
    limit = max_tokens - longest
    room = limit - len(first) - len(tail)
    if room <= len(before):
        raise RequestError(
            f"{max_tokens} tokens (--max-tokens, or the model's context) leave no room for the text beside the "
            f"template ({len(first) + len(before) + len(tail)}) and the longest completion ({longest}): raise "
            "--max-tokens, or choose a model of a longer context"
        )

    splits: dict[str, list[EncodedRow]] = {}
    cut_prompts = dict.fromkeys(data.splits, 0)
    for split, rows in data.splits.items():
        encoded: list[EncodedRow] = []
        whole_prompts = map(begun, _ids(tokenizer, (chosen.head(row.text) + chosen.after for row in rows)))
        for row, prompt, target in zip(rows, whole_prompts, targets[split], strict=True):
            kept = prompt
            if len(prompt) > limit:
                (head,) = _ids(tokenizer, [chosen.head(row.text.removesuffix(own_end))])
                kept = begun(head)[: limit - len(tail)] + tail
                cut_prompts[split] += 1
            references = tuple(ended(text)[0] for text in row.references)
            encoded.append(EncodedRow(kept, target.ids, target.label, references))
        splits[split] = encoded
    return EncodedTask(
        task=data.task,
        kind=kind,
        splits=splits,
        labels=data.labels,
        label_ids=label_ids,
        pad_id=tokenizer.pad_token_id or 0,
        eos_id=eos,
        max_new_tokens=max(len(target.ids) for target in targets["train"]),
        max_tokens=max_tokens,
        template=chosen.text,
        lead=chosen.lead,
        longest_prompt=limit,
        cut_prompts=cut_prompts,
        cut_completions={split: sum(target.is_cut for target in each) for split, each in targets.items()},
        first_ids=tuple(first),
        doubts=(
            *chosen.doubts(),
            *_marked(chosen, tokenizer, data.splits["train"]),
            *_unknown(tokenizer, splits["train"]),
            *_endless(data.task, [*other_ends, eos], targets["train"]),
            *_changed(tokenizer, [*other_ends, eos], splits["validation"], targets["validation"]),
        ),
        other_ends=tuple(other_ends),
        trims=chosen.trims,
    )


def _marked(template: Template, tokenizer: Any, rows: Sequence[Row]) -> Iterator[str]:
    """Rows that were in a chat template before they get one: they end as it does, or hold special tokens of its own."""
    marks = [re.escape(token) for token in tokenizer.all_special_tokens if token and token in template.text]
    if end := template.after.strip():
        marks.append(re.escape(end) + r"\s*$")
    mark = re.compile("|".join(marks) or "(?!)")
    if not template.special and (count := sum(mark.search(row.text) is not None for row in rows)):
        yield (
            f"train: {count} of {len(rows)} inputs hold marks of the chat template, and get it: give --template "
            "'{text}' if they had it before"
        )


def _unknown(tokenizer: Any, rows: Sequence[EncodedRow]) -> Iterator[str]:
    """Inputs that the tokenizer has no pieces for, as of another script than its own: the model cannot read them."""
    if tokenizer.unk_token in (tokenizer.bos_token, tokenizer.eos_token):
        return  # every prompt may begin with it, as with OPT's, which knows all there is
    tokens = sum(len(row.prompt) for row in rows)
    unknown = sum(row.prompt.count(tokenizer.unk_token_id) for row in rows)
    if unknown > tokens / 10:
        yield (
            f"train: {unknown / tokens:.0%} of the tokens of inputs are {tokenizer.unk_token}, which says nothing: the "
            "tokenizer does not know their language or script; choose a model that was trained on it"
        )


def _endless(task: Task, ends: Sequence[int | None], targets: Sequence[_Target]) -> Iterator[str]:
    if task == "generation" and not any(end is not None for end in ends):
        longest = max(len(target.ids) for target in targets)
        yield (
            f"the tokenizer has no end of sequence, so every answer goes on to {longest} tokens, as many as the "
            "longest completion of train has, and is scored with all of them: name a token of the tokenizer as "
            "eos_token in its files"
        )


def _changed(
    tokenizer: Any, ends: Sequence[int | None], rows: Sequence[EncodedRow], targets: Sequence[_Target]
) -> Iterator[str]:
    """Completions that no answer can be, once it is text: of other letters or spaces, or with pieces left out."""
    back = [
        (row.references[0], decoded(tokenizer, target.ids, ends))
        for row, target in zip(rows, targets, strict=True)
        if row.references and not target.is_cut
    ]
    other = [(text, found) for text, found in back if text.split() != found.split()]
    if other:
        text, found = other[0]
        yield (
            f"validation: {len(other)} of {len(rows)} completions come back from the tokenizer otherwise, such as "
            f"{shorten(text)} as {shorten(found)}: no answer can be the same as one of these"
        )


def decoded(tokenizer: Any, ids: Sequence[int], ends: Collection[int | None]) -> str:
    """A completion as text, up to the first of its ends."""
    own = list(itertools.takewhile(lambda token: token not in ends, ids))
    # Not tidied up, as some checkpoints ask for and no server does: where "a , b" is expected, "a, b" is no answer.
    text: str = tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def _encode_for_encoder(data: TaskData, tokenizer: Any, max_tokens: int) -> EncodedTask:
    (around,) = _ids(tokenizer, [""], add_special_tokens=True)
    if max_tokens <= len(around):
        raise RequestError(
            f"{max_tokens} tokens (--max-tokens, or the model's context) leave no room for the text beside the "
            f"tokenizer's own ({len(around)}): raise --max-tokens, or choose a model of a longer context"
        )
    index = {label: i for i, label in enumerate(data.labels)}
    splits: dict[str, list[EncodedRow]] = {}
    cut_prompts: dict[str, int] = {}
    for split, rows in data.splits.items():
        texts = [row.text for row in rows]
        cut = _ids(tokenizer, texts, add_special_tokens=True, truncation=True, max_length=max_tokens)
        splits[split] = [EncodedRow(ids, [], index[row.target]) for row, ids in zip(rows, cut, strict=True)]
        whole = _ids(tokenizer, texts, add_special_tokens=True)
        cut_prompts[split] = sum(len(ids) > len(row.prompt) for ids, row in zip(whole, splits[split], strict=True))
    return EncodedTask(
        task=data.task,
        kind="encoder",
        splits=splits,
        labels=data.labels,
        label_ids=(),
        pad_id=tokenizer.pad_token_id or 0,
        eos_id=None,
        max_new_tokens=0,
        max_tokens=max_tokens,
        template="{text}",
        lead="",
        longest_prompt=max_tokens,
        cut_prompts=cut_prompts,
        cut_completions={},
        doubts=tuple(_unknown(tokenizer, splits["train"])),
    )


def _common_end(texts: Sequence[str]) -> str:
    """What stands behind the text of each, where rows bring a template of their own."""
    end = os.path.commonprefix([text[::-1] for text in texts])[::-1]  # noqa: RUF071 - letters are what is wanted
    return "" if end in texts else end


def _ids(tokenizer: Any, texts: Iterable[str], **options: Any) -> Iterator[list[int]]:
    """Of each text, in their order; of few at a time, since a token's id takes 36 bytes in a list, and beside it
    tokenizers hold its text, place and masks, 100 more: the tokens of long documents need many times their memory.

    Raises ModelError where the tokenizer wants more than text, as those of forms and tables do.
    """
    options = {"add_special_tokens": False} | options
    for some in in_parts(texts, lambda text: _TEXT + len(text), _CHARACTERS):
        # verbose=False: a row beyond the model's length is cut by us, and counted; the tokenizer need not warn as well.
        try:
            encoded: list[list[int]] = tokenizer(some, verbose=False, **options)["input_ids"]
        except (AssertionError, TypeError, ValueError) as error:
            raise ModelError(
                f"{type(tokenizer).__name__} does not encode plain text ({str(error).strip().rstrip('.')}): choose a "
                "model of text alone"
            ) from error
        yield from encoded


def _leading_specials(tokenizer: Any) -> list[int]:
    """The ids a tokenizer puts in front (a beginning of sequence); what it puts behind would end the prompt."""
    (bare,) = _ids(tokenizer, ["a"])
    full: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def _continuations(tokenizer: Any, context: str, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text as they come out behind ``context``.

    Tokenised together, since many tokenizers put a space of their own before a text that stands alone.
    """
    context_ids, *both = _ids(tokenizer, [context, *(context + text for text in texts)])
    start = len(context_ids)
    return [
        ids[start:] if ids[:start] == context_ids else next(_ids(tokenizer, [text]))
        for ids, text in zip(both, texts, strict=True)
    ]


@dataclass(frozen=True)
class _Target:
    ids: list[int]
    label: int = -1
    is_cut: bool = False


def _generated(ids: list[int], eos: int | None, limit: int) -> _Target:
    """A completion and its end, within ``limit`` tokens; one that was cut does not end."""
    if len(ids) >= limit:
        return _Target(ids[: limit - 1], is_cut=True)
    return _Target(ids if eos is None else [*ids, eos])


def _prefix_free(labels: list[tuple[int, ...]], eos: int | None, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """End every label, where one begins another: else the shorter is never less likely than the longer."""
    first: dict[tuple[int, ...], str] = {}
    for name, ids in zip(names, labels, strict=True):
        if not ids:
            raise RequestError(f"label {name!r} has no tokens in this model's tokenizer: rename it")
        if (other := first.setdefault(ids, name)) is not name:
            raise RequestError(
                f"labels {other!r} and {name!r} have the same tokens in this model's tokenizer: rename one of them"
            )
    in_order = sorted(labels)  # what begins with a label stands right behind it
    if not any(b[: len(a)] == a for a, b in itertools.pairwise(in_order)):
        return tuple(labels)
    if eos is None:
        raise RequestError("one label begins another and the tokenizer has no end of sequence: rename the labels")
    return tuple((*ids, eos) for ids in labels)
