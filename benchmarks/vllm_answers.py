"""Compares what a running vLLM answers with PEFT, token by token.

    python -m benchmarks.vllm_answers ADAPTER ENDPOINT

ADAPTER is an export whose ``serve.sh`` started the server. Greedy answers of 24 tokens, of the base model and of the
adapter, in float32 here: start the server with ``--dtype float32`` too. Exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.arguments import sentences
from objectives.errors import RequestError
from objectives.latency.stream import Endpoint

PROMPTS = ("Once upon a time", "What is the capital of France ?\nAnswer:", "The dog ran", "name[The Eagle]\nText:")
TOKENS = 24


def all_equal(adapter: Path, endpoint: Endpoint) -> bool:
    manifest = json.loads((adapter / "manifest.json").read_text())
    base = manifest["base_model"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    equal = {}
    for name in (base, manifest["search"]):
        if name != base:
            model = PeftModel.from_pretrained(model, adapter).eval()
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt")
            ours = model.generate(**ids, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)[0]
            asked = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "min_tokens": TOKENS}
            status, answer = endpoint.call("POST", "/v1/completions", asked | {"return_token_ids": True})
            if status != 200:
                raise RequestError(f"the server answered {status}: {answer}")
            choice = answer["choices"][0]
            equal[name, prompt] = choice["token_ids"] == ours[ids["input_ids"].shape[1] :].tolist()
            print(f"{'equal' if equal[name, prompt] else 'DIFFERENT'}  {name}: {prompt!r} {choice['text']!r}")
    print(f"{sum(equal.values())} of {len(equal)} answers are equal")
    return all(equal.values())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", metavar="ADAPTER", type=Path)
    parser.add_argument("endpoint", metavar="ENDPOINT")
    args = parser.parse_args(argv)
    with sentences(parser):
        return int(not all_equal(args.adapter, Endpoint(args.endpoint)))


if __name__ == "__main__":
    raise SystemExit(main())
