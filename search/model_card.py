"""The README of an exported adapter: what it is worth, how to load it, and how its test figure can be had again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dashboards.format import latency_name, metric_name
from dashboards.loading import adapted_model
from dashboards.words import verify_command

_PROMPT = """\
import json
import torch
from transformers import {imported}

scoring = json.load(open("manifest.json", encoding="utf-8"))["scoring"]
first = scoring["first_ids"]
tokenizer = AutoTokenizer.from_pretrained({base!r}{trusted})


def prompt_of(text):
    prompt = scoring["template"].replace("{{text}}", text{trimmed})
    prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return prompt if prompt[: len(first)] == first else first + prompt  # the text may bring them"""

_LABELS = """\
The label counts whose tokens have the largest summed log-likelihood behind the prompt; `scoring` in `manifest.json` has
the tokens of prompt and labels. With `model` from above, in this folder:

```python
{prompt}


@torch.inference_mode()
def classify(text):
    prompt, scores = prompt_of(text), {{}}
    for label, ids in scoring["label_ids"].items():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
        scores[label] = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
    return max(scores, key=scores.get)
```

A text is cut at its end where prompt and longest label are more than {max_tokens} tokens."""

_TEXT = """\
The prompt is {template} with the row's text, tokenised without special tokens, behind the tokens {first_ids} unless
it begins with them.
Decoding is greedy, which requests to a server ask for with a temperature of 0, up to {end} or {max_new_tokens} tokens.
With `model` from above, in this folder:

```python
{prompt}


# In place of the checkpoint's own, whose penalties would change answers.
model.generation_config = GenerationConfig()
ends = {ends}


@torch.inference_mode()
def answer(text):
    prompt = torch.tensor([prompt_of(text)])
    ids = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=scoring["max_new_tokens"],
        do_sample=False,
        eos_token_id=ends or None,
    )[0, prompt.shape[1] :]
    ids = [token for token in ids.tolist() if token not in ends]
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
```

A prompt is scored once, by {metric} against all its completions; it is cut at its end where it and the longest
completion are more than {max_tokens} tokens."""

_HEAD = """\
The classes are, in this order: {labels}. The head that was trained with the adapter is in this folder too. The
tokenizer cuts a text to {max_tokens} tokens. Each was scored as if alone: if padding changes what the model says, as
with FNet, CANINE and XLNet, serve texts of one length together. With `model` from above, in this folder:

```python
import json
import torch
from transformers import AutoTokenizer

labels = json.load(open("manifest.json", encoding="utf-8"))["labels"]
tokenizer = AutoTokenizer.from_pretrained({base!r}{trusted})


@torch.inference_mode()
def classify(text):
    ids = tokenizer(text, truncation=True, max_length={max_tokens}, return_tensors="pt")["input_ids"]
    return labels[model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.argmax(-1).item()]
```"""

_SAMPLE = """\
Where a note on test says below that N of M rows were used, they are those that
`sorted(random.Random("{seed} test").sample(range(M), N))` gives, counted from 0; of generation, M counts different
prompts in order of appearance."""


def model_card(manifest: dict[str, Any]) -> str:
    """Markdown, from the manifest of :mod:`search.export` alone."""
    test, metric = manifest["test"], metric_name(manifest["metric"])
    figure = (
        f"test {metric} {test['accuracy']:.4f} (95% interval {test['accuracy_ci'][0]:.4f} to "
        f"{test['accuracy_ci'][1]:.4f}, {test['rows']} rows)"
        if test
        else f"validation {metric} {manifest['validation']['accuracy']:.4f}; not tested, as the front of a "
        "search is when it ends"
    )
    latency = latency_name(manifest["latency"].get("axis", "tpot"))
    base = manifest["base_model"]
    # The model hub refuses a card whose base model is a folder.
    hub_id = "" if Path(base).is_absolute() else f"base_model: {base}\n"
    again = f"`{verify_command(manifest)}` measures the test split again and compares.\n" if test else ""
    return (
        f"""---
library_name: peft
{hub_id}tags: [lora]
---

# {manifest["label"]}

LoRA on `{", ".join(manifest["targets"])}`, rank {manifest["rank"]}, alpha {manifest["alpha"]};
trial {manifest["trial"]} of search `{manifest["search"]}`.
{figure[0].upper()}{figure[1:]}; {latency} {manifest["latency"]["ratio"]:.2f} times the base model's when
served unmerged (merged, an adapter costs nothing). `manifest.json` holds all figures and where they come from.

```python
{adapted_model(base, manifest["provenance"], ".")}
```

## How it is served

{_served(manifest["serving"])}

## How it was scored

{_scoring(manifest)}

{again}""".rstrip()
        + "\n"
    )


def _scoring(manifest: dict[str, Any]) -> str:
    scoring = manifest["scoring"]
    if scoring is None:
        return f"The prompt is {_code(repr(manifest['template']))} with the row's text."
    provenance, max_tokens = manifest["provenance"], scoring["max_tokens"]
    loaded = {
        "base": manifest["base_model"],
        "trusted": ", trust_remote_code=True" if provenance["trust_remote_code"] else "",
        "trimmed": ".strip()" if scoring.get("trims") else "",  # as the chat template does
    }
    if provenance["kind"] == "encoder":
        labels = _code(json.dumps(manifest["labels"], ensure_ascii=False))  # which may hold commas
        how = _HEAD.format(**loaded, labels=labels, max_tokens=max_tokens)
    elif manifest["task"] == "classification":
        how = _LABELS.format(prompt=_PROMPT.format(**loaded, imported="AutoTokenizer"), max_tokens=max_tokens)
    else:
        ends = scoring.get("end_ids", [] if scoring["eos_id"] is None else [scoring["eos_id"]])
        how = _TEXT.format(
            template=_code(repr(scoring["template"])),
            first_ids=scoring["first_ids"],
            end=f"one of the tokens {ends}" if "end_ids" in scoring else "the end of sequence",
            max_new_tokens=scoring["max_new_tokens"],
            prompt=_PROMPT.format(**loaded, imported="AutoTokenizer, GenerationConfig"),
            ends=ends,
            metric=metric_name(manifest["metric"]),
            max_tokens=max_tokens,
        )
    notes = "\n".join(f"- {note}" for note in manifest["notes"])
    return "\n\n".join([how, *([_SAMPLE.format(seed=manifest["provenance"]["seed"]), notes] if notes else [])])


def _served(serving: dict[str, Any]) -> str:
    if serving["loads"]:
        wrapped = (
            "only the targeted layers"
            if serving["exact"]
            else "all layers of the targeted names, also those that the adapter leaves alone, so that it may be slower "
            "than measured"
        )
        return (
            f"vLLM serves it unmerged with `sh serve.sh`, which wraps {wrapped}, if it has LoRA for this "
            "architecture. Without `--lora-target-modules` every layer is wrapped, "
            "and all placements are equally slow. Merged (`model.merge_and_unload()`), it is as fast as the base model."
        )
    return (
        f"vLLM does not load it: {'; '.join(serving['why_not'])}. Merged (`model.merge_and_unload()`), it is as fast "
        "as the base model on any server."
    )


def _code(text: str) -> str:
    """A code span of Markdown as a whole, whatever backticks the text holds; it neither begins nor ends with one."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence}{text}{fence}"
