"""The data of one task: read, checked, and split into train, validation and test."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from objectives.errors import DataError, counted
from objectives.formats import RawRows
from objectives.rows import FIELDS, Row, Task, parse, shorten
from objectives.sources import Split, find, some
from objectives.splits import FEWEST, group_by_prompt, sample, set_aside, spaced

__all__ = ["Row", "Split", "Task", "TaskData", "load_data"]


#: Share of the rows of a split that may repeat others, or contradict them, without a note.
_DOUBTFUL = 0.05
#: Share of one label from which accuracy says little by itself.
_LOPSIDED = 0.6


@dataclass(frozen=True)
class TaskData:
    """``splits`` has exactly train, validation and test, of at least two rows each.

    ``labels`` are those of train, sorted; none for generation. ``digest`` is sixteen hexadecimal digits of SHA-256
    over the task and all rows as used. ``notes`` say, in sentences for the user, what was done to the data.
    """

    name: str
    task: Task
    splits: Mapping[str, tuple[Row, ...]]
    labels: tuple[str, ...]
    digest: str
    notes: tuple[str, ...]

    def with_train_of(self, most: int, seed: int) -> TaskData:
        """With a sample of train, and a note, if that has more rows; ``digest`` stays that of all."""
        train = self.splits["train"]
        if len(train) <= most:
            return self
        splits = {**self.splits, "train": tuple(sample(train, most, seed, "train"))}
        return replace(self, splits=splits, notes=(*self.notes, f"train: {most} of {len(train)} rows used"))


def load_data(
    source: str,
    task: Task | None = None,
    *,
    seed: int = 0,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    default_rows: Mapping[Task, tuple[int, int]] | None = None,
) -> TaskData:
    """Read ``source``: a folder of split files, one file, or otherwise a hub id; the task follows from the fields.

    A missing validation or test split is set aside from train by ``seed``. ``validation_rows`` and ``test_rows``
    bound how many rows of those splits are used, by a sample; where they are None ``default_rows`` does, which has both
    for each task. Train does not depend on them. Train rows whose input also stands in validation or test, but for
    white space, are dropped.

    Raises DataError with place, cause and remedy for whatever cannot be read, or cannot be learned from.
    """
    limits: dict[Split, int | None] = {"validation": validation_rows, "test": test_rows}
    for split, limit in limits.items():
        if limit is not None and limit < FEWEST:
            raise DataError(f"--{split}-rows {limit} is too few. Use at least {FEWEST}.")

    name, raw, unused = find(source, {field for fields in FIELDS.values() for field in fields})
    task, train, _ = parse(raw["train"], task)
    for split, most in zip(limits, (default_rows or {}).get(task, ()), strict=False):
        limits[split] = limits[split] or most
    labels = {row.target for row in train} if task == "classification" else set()
    if len(labels) == 1:
        raise DataError(f"{raw['train'].name}: every row has the label {shorten(train[0].target)}. Give two or more.")
    given: dict[Split, list[Row]] = {}
    for split in limits:
        if split in raw:
            _, given[split], label_first_at = parse(raw[split], task)
            if task == "classification":
                _check_labels(raw[split], split, label_first_at, labels)

    notes: list[str] = []
    train = _without_leaks(train, given, labels, raw["train"].name, notes)
    missing = [split for split in limits if split not in given]
    if missing and unused:
        notes.append(f"not used, since only train, validation (valid, dev, val) and test are: {some(unused)}")
    train, made = _made_from(train, missing, task, source, seed, notes)
    splits: dict[str, tuple[Row, ...]] = {"train": tuple(train)}
    for split, limit in limits.items():
        rows = (given | made)[split]
        splits[split] = tuple(_used(rows, split, task, limit, seed, notes))
        if task == "classification":
            notes += _doubts(splits[split], split)
    for part, used in splits.items():
        if len(used) < FEWEST:
            unit = "prompt" if task == "generation" and part != "train" else "row"
            raise DataError(f"{source}: the {part} split has only one {unit}. Give at least {FEWEST}.")
    if task == "classification":
        notes += _alike(labels) + _lopsided(splits)
    return TaskData(name, task, splits, tuple(sorted(labels)), _digest(task, splits), tuple(notes))


def _check_labels(raw: RawRows, split: Split, first_at: Mapping[str, int], known: set[str]) -> None:
    for label, number in first_at.items():
        if label not in known:
            raise DataError(
                f"{raw.at(number)}: the label {shorten(label)} stands in {split} but not in train, which has "
                f"{some(list(map(shorten, sorted(known))))}. Write it as there, add train rows with it, or remove it "
                f"from {split}."
            )


def _without_leaks(
    train: list[Row], given: Mapping[Split, Sequence[Row]], labels: set[str], name: str, notes: list[str]
) -> list[Row]:
    held_out = [{spaced(row.text) for row in rows} for rows in given.values()]
    leaked = set().union(*held_out)
    clean = [row for row in train if spaced(row.text) not in leaked] if leaked else train
    where = " or ".join(given)
    if len(held_out) == 2 and (both := len(held_out[0] & held_out[1])):
        notes.append(f"{counted(both, 'input')} in both validation and test, kept in both")
    if len(clean) == len(train):
        return train
    notes.append(f"dropped {counted(len(train) - len(clean), 'train row')} whose input also stands in {where}")
    remedy = f"Give train rows that do not stand in {where}."
    if labels and (lost := labels - {row.target for row in clean}):
        raise DataError(f"{name}: every row with the label {shorten(min(lost))} also stands in {where}. {remedy}")
    if len(clean) < FEWEST:
        raise DataError(f"{name}: of {len(train)} rows only {len(clean)} do not also stand in {where}. {remedy}")
    return clean


def _made_from(
    train: list[Row], missing: Sequence[Split], task: Task, source: str, seed: int, notes: list[str]
) -> tuple[list[Row], dict[Split, list[Row]]]:
    """What is left of train, and the missing splits; stratified by label for classification."""
    if not missing:
        return train, {}
    inputs = [spaced(row.text) for row in train]
    strata = (row.target if task == "classification" else "" for row in train)
    try:
        aside = set_aside(zip(inputs, strata, strict=True), len(missing), seed)
    except ValueError as error:
        raise DataError(
            f"{source}: train is too small to set aside rows for {' and '.join(missing)} ({error}). "
            "Give more rows, or a file for each split."
        ) from error
    rows_by_input = list(zip(inputs, train, strict=True))
    made = {
        split: [row for text, row in rows_by_input if text in texts]
        for split, texts in zip(missing, aside, strict=True)
    }
    for split, rows in made.items():
        share = f"{len(rows) / len(train):.0%} of train ({counted(len(rows), 'row')})"
        notes.append(f"no {split} split: {share} was set aside with seed {seed}")
    gone = set().union(*aside)
    return [row for text, row in rows_by_input if text not in gone], made


def _used(rows: list[Row], split: Split, task: Task, limit: int | None, seed: int, notes: list[str]) -> list[Row]:
    if task == "generation":
        grouped = group_by_prompt(rows)
        if len(grouped) < len(rows):
            prompts = counted(len(grouped), "different prompt")
            notes.append(f"{split}: {len(rows)} rows have {prompts}; each is scored against all its completions")
        rows = grouped
    if limit is None or limit >= len(rows):
        return rows
    notes.append(f"{split}: {limit} of {len(rows)} rows used (--{split}-rows)")
    return sample(rows, limit, seed, split)


def _doubts(rows: Sequence[Row], split: Split) -> list[str]:
    """Where figures of a classified split are surer, or can be less good, than they seem."""
    by_input: dict[str, Counter[str]] = {}
    for row in rows:
        by_input.setdefault(spaced(row.text), Counter())[row.target] += 1
    repeated = len(rows) - sum(map(len, by_input.values()))
    torn = sum(labels.total() for labels in by_input.values() if len(labels) > 1)
    said = (
        (repeated, "repeat others: intervals take them for rows of their own, so they are too narrow"),
        (torn, "have an input that stands there with another label too: no model gets all of them right"),
    )
    return [f"{split}: {count} of {len(rows)} rows {what}" for count, what in said if count > _DOUBTFUL * len(rows)]


def _alike(labels: set[str]) -> list[str]:
    """Labels that somebody may have meant to be one."""
    by_form: dict[str, list[str]] = {}
    for label in sorted(labels):
        by_form.setdefault(spaced(unicodedata.normalize("NFKC", label).casefold()), []).append(label)
    alike = [" and ".join(map(shorten, forms)) for forms in by_form.values() if len(forms) > 1]
    return [f"labels that look alike are different classes: {some(alike)}"] if alike else []


def _lopsided(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """What a model gets that has learned nothing but the commonest label."""
    ((label, _),) = Counter(row.target for row in splits["train"]).most_common(1)
    shares = {split: sum(row.target == label for row in rows) / len(rows) for split, rows in splits.items()}
    if shares["train"] < _LOPSIDED:
        return []
    always = f"{shares['validation']:.3f} on validation and {shares['test']:.3f} on test"
    return [f"{shares['train']:.0%} of train has the label {shorten(label)}: always saying it has accuracy {always}"]


def _digest(task: Task, splits: Mapping[str, Sequence[Row]]) -> str:
    digest = hashlib.sha256(task.encode())
    for split, rows in splits.items():
        for row in rows:
            digest.update(json.dumps([split, row.text, row.target, row.references]).encode())
    return digest.hexdigest()[:16]
