"""Profiles: complete, fair between the two models, and taken from real decoding.

No assertion is on milliseconds. Ratios are of CPU time of interleaved passes, with wide margins.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from objectives.backbone import attach
from objectives.latency import LatencySettings, measure_pair, profile_context
from objectives.placement import Placement
from tests.objectives.tiny import CAUSAL, ENCODERS, Zoo, all_groups

QUICK = LatencySettings(prompt_tokens=8, output_tokens=5, min_requests=3, max_requests=3)
PERCENTILES = {f"{what}_p{p}_ms" for what in ("ttft", "tpot") for p in (50, 95, 99)}
KEYS = PERCENTILES | {
    "ratio", "ratio_ci", "settled", "requests", "axis", "base", "engine", "mode", "prompt_tokens", "output_tokens",
}  # fmt: skip


class Recorder:
    """Stands around a model and notes what it is called with and gives; the clock of the profile runs as ever."""

    def __init__(self, model: Any, log: list[tuple[str, list[int], int]], name: str) -> None:
        self._model, self._log, self._name = model, log, name
        self.device, self.config = model.device, model.config

    def __call__(self, **inputs: Any) -> Any:
        out = self._model(**inputs)
        self._log.append((self._name, inputs["input_ids"][0].tolist(), int(out.logits[0].argmax(-1)[-1])))
        return out


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_a_profile_is_complete_and_ready_for_json(zoo: Zoo, name: str) -> None:
    space, base = zoo.space(name), zoo.base(name)
    adapted = attach(base, space, all_groups(space), seed=0).get_base_model().eval()
    encoder = name in ENCODERS
    profile = measure_pair(base, adapted, QUICK, encoder=encoder, seed=0)
    assert profile.keys() == KEYS
    assert profile["base"].keys() == PERCENTILES
    assert json.loads(json.dumps(profile, allow_nan=False)) == profile
    assert profile["axis"] == ("ttft" if encoder else "tpot")
    assert (profile["engine"], profile["mode"], profile["requests"]) == ("transformers", "unmerged", 3)
    for side in (profile, profile["base"]):
        for what in ("ttft",) if encoder else ("ttft", "tpot"):
            assert 0 < side[f"{what}_p50_ms"] <= side[f"{what}_p95_ms"] <= side[f"{what}_p99_ms"]
        assert all((side[f"tpot_p{p}_ms"] is None) == encoder for p in (50, 95, 99))
    low, high = profile["ratio_ci"]
    assert low <= profile["ratio"] <= high


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_model_against_itself_is_about_as_fast(zoo: Zoo, name: str) -> None:
    base = zoo.base(name)
    settings = replace(QUICK, output_tokens=9, min_requests=10, max_requests=10)
    assert measure_pair(base, base, settings, encoder=name == "bert", seed=0)["ratio"] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_an_adapter_on_every_group_costs_time(zoo: Zoo, name: str) -> None:
    space, base = zoo.space(name), zoo.base(name)
    adapted = attach(base, space, all_groups(space), seed=0).get_base_model().eval()
    settings = replace(QUICK, output_tokens=9, min_requests=10, max_requests=10)
    profile = measure_pair(base, adapted, settings, encoder=name == "bert", seed=0)
    assert profile["ratio"] > 1.1


def test_more_groups_cost_more(zoo: Zoo) -> None:
    space, base = zoo.space("llama"), zoo.base("llama")
    settings = replace(QUICK, output_tokens=9, min_requests=10, max_requests=10)

    def ratio(placement: Placement) -> float:
        adapted = attach(base, space, placement, seed=0).get_base_model().eval()
        return float(measure_pair(base, adapted, settings, encoder=False, seed=0)["ratio"])

    assert ratio(Placement.of(["o_proj"], 4)) < ratio(all_groups(space))


@pytest.mark.parametrize("name", CAUSAL)
def test_the_timed_tokens_are_those_of_generate(zoo: Zoo, name: str) -> None:
    """One prompt, then one token a pass with the model's own cache, greedily, as a server decodes."""
    base = zoo.base(name)
    log: list[tuple[str, list[int], int]] = []
    settings = replace(QUICK, warmup=0, min_requests=1, max_requests=1, output_tokens=9)
    pair = Recorder(base, log, "base"), Recorder(base, log, "adapted")
    measure_pair(*pair, settings, encoder=False, seed=0)
    for side in ("base", "adapted"):
        calls = [(ids, token) for which, ids, token in log if which == side]
        prompt, tokens = calls[0][0], [token for _, token in calls]
        assert len(prompt) == 8
        assert [ids for ids, _ in calls[1:]] == [[token] for token in tokens[:-1]], "fed back one at a time"
        # Without an end of sequence, which generate would stop at.
        expected = base.generate(
            torch.tensor([prompt]), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=2
        )
        assert tokens == expected[0, 8:].tolist()


def test_who_goes_first_changes_from_token_to_token(zoo: Zoo) -> None:
    log: list[tuple[str, list[int], int]] = []
    settings = replace(QUICK, warmup=0, min_requests=1, max_requests=1, output_tokens=4)
    base = zoo.base("llama")
    measure_pair(Recorder(base, log, "base"), Recorder(base, log, "adapted"), settings, encoder=False, seed=0)
    assert [which for which, *_ in log] == ["base", "adapted", "adapted", "base"] * 2


def test_warm_up_is_not_counted_and_the_seed_chooses_the_prompt(zoo: Zoo) -> None:
    base = zoo.base("llama")

    def prompts(seed: int) -> list[list[int]]:
        log: list[tuple[str, list[int], int]] = []
        settings = replace(QUICK, warmup=2, min_requests=1, max_requests=1, output_tokens=3)
        profile = measure_pair(Recorder(base, log, "a"), Recorder(base, log, "b"), settings, encoder=False, seed=seed)
        assert profile["requests"] == 1
        return [ids for _, ids, _ in log if len(ids) > 1]

    assert len(prompts(0)) == 2 * 3, "two requests to warm up and one that counts, each to both"
    assert prompts(0) == prompts(0) != prompts(1)


def test_requests_end_when_the_ratio_is_known_well_enough(zoo: Zoo) -> None:
    base = zoo.base("llama")
    loose = replace(QUICK, min_requests=4, max_requests=40, max_seconds=60, half_width=1e6)
    profile = measure_pair(base, base, loose, encoder=False, seed=0)
    assert (profile["requests"], profile["settled"]) == (4, True)


@pytest.mark.parametrize(("max_requests", "max_seconds"), [(6, 60.0), (40, 0.0)])
def test_requests_end_at_the_limits(zoo: Zoo, max_requests: int, max_seconds: float) -> None:
    base = zoo.base("llama")
    strict = replace(QUICK, min_requests=5, max_requests=max_requests, max_seconds=max_seconds, half_width=0.0)
    profile = measure_pair(base, base, strict, encoder=False, seed=0)
    assert (profile["requests"], profile["settled"]) == (6 if max_seconds else 5, False)


def test_a_profile_holds_for_one_structure_thread_count_and_protocol(zoo: Zoo) -> None:
    cpu = torch.device("cpu")
    space = zoo.space("llama")
    context = profile_context(space, cpu, QUICK)
    assert context == profile_context(space, cpu, QUICK)
    others = [
        profile_context(zoo.space("gpt2"), cpu, QUICK),
        profile_context(space, cpu, replace(QUICK, prompt_tokens=9)),
        profile_context(space, torch.device("meta"), QUICK),
    ]
    assert len({context, *others}) == 4
    assert torch.__version__ in context
