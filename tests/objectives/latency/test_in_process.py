"""Profiles: complete, fair between the two models, and taken from real decoding.

No assertion is on milliseconds. Ratios are of CPU time of interleaved passes, with wide margins.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    FalconConfig,
    FalconForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MobileBertConfig,
    MobileBertForSequenceClassification,
)

from objectives.backbone import attach
from objectives.errors import RequestError
from objectives.latency import in_process
from objectives.latency.context import good_enough, in_process_facts, profile_context, profile_key
from objectives.latency.engine import measure
from objectives.latency.graphs import GraphDecoder
from objectives.latency.in_process import InProcessPair, TransformersEngine
from objectives.latency.settings import LatencySettings
from objectives.latency.timing import Timing
from objectives.placement import BASE, Placement
from tests.objectives.tiny import CAUSAL, ENCODERS, Zoo, all_groups, shake

QUICK = LatencySettings(prompt_tokens=8, output_tokens=5, min_requests=3, max_requests=3)
PERCENTILES = {f"{what}_p{p}_ms" for what in ("ttft", "tpot") for p in (50, 95, 99)}
PERCENTILES |= {f"itl_p{p}_ms" for p in (50, 95, 99)}
KEYS = PERCENTILES | {
    "ratio", "ratio_ci", "settled", "requests", "axis", "base", "engine", "mode", "prompt_tokens", "output_tokens",
    "concurrency", "max_seconds", "samples", "source", "measured_at",
}  # fmt: skip


def measure_pair(base: Any, adapted: Any, settings: LatencySettings, *, encoder: bool, seed: int) -> dict[str, Any]:
    pair = InProcessPair(base, adapted, settings, encoder=encoder, seed=seed)
    return measure(pair, settings, seed=seed, engine="transformers")


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
        for what in ("ttft",) if encoder else ("ttft", "tpot", "itl"):
            assert 0 < side[f"{what}_p50_ms"] <= side[f"{what}_p95_ms"] <= side[f"{what}_p99_ms"]
        assert all((side[f"tpot_p{p}_ms"] is None) == encoder for p in (50, 95, 99))
    low, high = profile["ratio_ci"]
    assert low <= profile["ratio"] <= high


def test_rows_of_an_encoder_decoder_end_once() -> None:
    """BART refuses rows with different numbers of ends, which chance would draw among a few hundred tokens."""
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=16, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, eos_token_id=15, **sizes)
    model = BartForSequenceClassification(config).eval()
    pair = InProcessPair(model, model, replace(QUICK, concurrency=8), encoder=True, seed=0)
    assert (pair._prompt == 15).sum(1).tolist() == [1] * 8
    assert len(pair.request().base) == 5


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


def test_who_takes_the_slow_step_behind_the_prompt_changes_from_request_to_request(zoo: Zoo) -> None:
    """It was the adapted model each time: the base model was 1% slower than itself."""
    log: list[tuple[str, list[int], int]] = []
    settings = replace(QUICK, warmup=0, min_requests=2, max_requests=2, output_tokens=4)
    base = zoo.base("llama")
    measure_pair(Recorder(base, log, "base"), Recorder(base, log, "adapted"), settings, encoder=False, seed=0)
    one, other = log[:8], log[8:]
    assert [which for which, *_ in one] == ["base", "adapted", "adapted", "base"] * 2
    assert [which for which, *_ in other] == ["adapted", "base", "base", "adapted"] * 2


class GivenTimes:
    """A clock that has read these seconds, of (tokens, 2 models), whatever ran."""

    def __init__(self, wall: list[tuple[float, float]], cost: list[tuple[float, float]]) -> None:
        self._wall, self._cost = np.array(wall), np.array(cost)

    def start(self) -> None: ...

    def stop(self, token: int, which: int) -> None: ...

    def read(self, tokens: int) -> tuple[Any, Any]:
        return self._wall[:tokens], self._cost[:tokens]


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_ratios_are_of_cost_behind_the_first_token_and_times_of_the_wall(
    zoo: Zoo, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ratio for each two tokens, in which each model was first once; a third token behind the first has no other."""
    base = zoo.base(name)
    pair = InProcessPair(base, base, replace(QUICK, output_tokens=4), encoder=name == "bert", seed=0)
    wall = [(9.0, 19.0), (1.0, 2.0), (1.5, 2.5), (1.25, 2.25)]
    monkeypatch.setattr(pair, "_clock", GivenTimes(wall, [(5.0, 50.0), (1.0, 2.0), (3.0, 4.0), (7.0, 70.0)]))
    request = pair.request()
    assert request.ratios.tolist() == [6.0 / 4.0]
    both = [(request.base, 0), (request.adapted, 1)]
    for timings, which in both:
        seconds = [each[which] for each in wall]
        if name == "bert":
            assert timings == tuple(Timing(each, (), 1) for each in seconds), "a pass is a request of its own"
        else:
            assert timings == (Timing(seconds[0], tuple(seconds[1:]), 4),)


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


def test_an_engine_opens_placements_and_the_base_model_beside_itself(zoo: Zoo) -> None:
    space, base = zoo.space("llama"), zoo.base("llama")
    engine = TransformersEngine(base, space, replace(QUICK, concurrency=3))
    for placement in (BASE, all_groups(space)):
        request = engine.open(placement, seed=0).request()
        assert len(request.base) == len(request.adapted) == 3, "one timing for each row of the batch"
        assert request.base[0].output_tokens == 5
        assert len(request.ratios) == 2
    assert not any("lora" in name for name, _ in base.named_modules()), "the base model stays as it was"


def test_whether_a_model_decodes_is_tried_once(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each placement of a search."""
    tried: list[object] = []

    class Counted(in_process._Decoder):
        def __init__(self, model: Any, prompt: torch.Tensor) -> None:
            super().__init__(model, prompt)
            tried.append(model)

    monkeypatch.setattr(in_process, "_Decoder", Counted)
    engine = TransformersEngine(zoo.base("llama"), zoo.space("llama"), QUICK)
    for placement in (BASE, all_groups(zoo.space("llama")), BASE):
        engine.open(placement, seed=0)
    assert len(tried) == 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_mixed_batch_serves_each_row_by_its_own_adapter(zoo: Zoo, name: str) -> None:
    engine = TransformersEngine(zoo.base(name), zoo.space(name), replace(QUICK, concurrency=3))
    pair = engine.open_mixed(all_groups(zoo.space(name)), 2, seed=0)
    request = pair.request()
    assert len(request.adapted) == 3
    mixed = pair._models[1]
    assert mixed._names == ["default", "adapter1", "default"]
    shake(mixed._model)
    ids = torch.arange(8).repeat(3, 1)
    rows = mixed(input_ids=ids).logits
    assert torch.equal(rows[0], rows[2])
    assert not torch.allclose(rows[0], rows[1])


def test_adapters_that_peft_cannot_mix_are_refused(zoo: Zoo) -> None:
    """OPT's MLP puts the tokens of all rows together; the heads of RoBERTa and others are no single layer."""
    space = zoo.space("opt")
    with pytest.raises(RequestError) as caught:
        TransformersEngine(zoo.base("opt"), space, replace(QUICK, concurrency=2)).open_mixed(all_groups(space), 2, 0)
    assert str(caught.value).startswith(
        f"{all_groups(space).label} cannot be served in mixed batches: PEFT mixes no adapters of model type 'opt' "
        "(ValueError: Length of `adapter_names` should be the same as the number of inputs"
    )


def test_an_encoder_is_served_in_mixed_batches(zoo: Zoo) -> None:
    engine = TransformersEngine(zoo.base("bert"), zoo.space("bert"), replace(QUICK, concurrency=2))
    assert len(engine.open_mixed(all_groups(zoo.space("bert")), 2, seed=0).request().adapted) == 5


def test_adapters_of_fused_experts_are_not_mixed(zoo: Zoo) -> None:
    space = zoo.space("mixtral")
    engine = TransformersEngine(zoo.base("mixtral"), space, replace(QUICK, concurrency=2))
    with pytest.raises(RequestError) as caught:
        engine.open_mixed(all_groups(space), 2, seed=0)
    assert str(caught.value) == (
        f"{all_groups(space).label} cannot be served in mixed batches: PEFT mixes no adapters of fused experts, and "
        "none under --graphs"
    )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_static_cache_decodes_the_same_tokens(zoo: Zoo, name: str) -> None:
    """Without the compiler, which takes long: what is tested is the decoding that it would record."""
    space, base = zoo.space(name), zoo.base(name)
    model = attach(base, space, all_groups(space), seed=0).eval().get_base_model()
    shake(model)
    prompt = torch.randint(320, (2, 8), generator=torch.Generator().manual_seed(0))
    decoder = GraphDecoder(model, 8 + 9, backend=None)
    for _ in range(2):  # the cache is used again
        with torch.inference_mode():
            step = decoder.begin(prompt)
            tokens = torch.cat([step() for _ in range(9)], dim=1)
        expected = model.generate(prompt, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=2)
        assert tokens.tolist() == expected[:, 8:].tolist()


def test_the_static_cache_of_a_model_with_a_state_is_read() -> None:
    """Mamba2 takes any name for it, and goes by none but its own."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2}
    model = Mamba2ForCausalLM(Mamba2Config(vocab_size=320, chunk_size=8, pad_token_id=2, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    prompt = torch.randint(320, (2, 8), generator=torch.Generator().manual_seed(0))
    expected = prompt
    with torch.inference_mode():
        for _ in range(9):
            token = model(input_ids=expected, use_cache=False).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, token], dim=1)
        step = GraphDecoder(model, 8 + 9, backend=None).begin(prompt)
        assert torch.cat([step() for _ in range(9)], dim=1).tolist() == expected[:, 8:].tolist()


def test_a_model_that_fails_with_a_static_cache_is_not_recorded() -> None:
    config = FalconConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True, multi_query=False,
        new_decoder_architecture=False,
    )  # fmt: skip
    with torch.inference_mode(), pytest.raises(RequestError) as caught:
        GraphDecoder(FalconForCausalLM(config).eval(), 8 + 3, backend=None).begin(torch.ones(1, 8, dtype=torch.long))()
    said = str(caught.value)
    assert said.startswith("--graphs: transformers cannot record model type 'falcon' as a graph (RuntimeError: ")
    assert said.endswith("): leave the flag out")


def test_a_model_without_an_attention_cache_is_not_recorded(zoo: Zoo) -> None:
    with pytest.raises(RequestError) as caught:
        GraphDecoder(zoo.base("mamba"), 8)
    assert str(caught.value) == (
        "--graphs: transformers cannot record model type 'mamba' as a graph: leave the flag out"
    )


def test_a_profile_holds_for_one_structure_engine_and_shape_of_request(zoo: Zoo) -> None:
    space = zoo.space("llama")
    facts = in_process_facts(torch.device("cpu"), torch.float32)
    context = profile_context(space, facts, QUICK)
    assert context == profile_context(space, dict(reversed(facts.items())), QUICK)
    longer = replace(QUICK, max_seconds=9.0, half_width=0.001, max_requests=99)
    assert context == profile_context(space, facts, longer), "how long was measured is asked of the profile"
    others = [
        profile_context(zoo.space("gpt2"), facts, QUICK),
        profile_context(space, facts, replace(QUICK, prompt_tokens=9)),
        profile_context(space, facts, replace(QUICK, output_tokens=9)),
        profile_context(space, facts, replace(QUICK, concurrency=2)),
        profile_context(space, facts, replace(QUICK, graphs=True)),
        *(profile_context(space, facts | {name: "other"}, QUICK) for name in facts),
    ]
    assert len({context, *others}) == 6 + len(facts)
    assert torch.__version__ in context
    assert len(profile_key(context, "o_proj r8")) == 64


@pytest.mark.parametrize(
    ("interval", "seconds", "settled", "enough"),
    [
        ([1.19, 1.21], 0.1, True, True),
        ([1.1, 1.3], 0.1, False, False),
        ([1.1, 1.3], 0.8, False, True),
        ([1.1, 1.3], 0.8, True, False),
    ],
    ids=["narrow", "out of less time", "out of as much time", "wide enough for who asked, long before its time"],
)
def test_a_kept_profile_is_good_enough_if_narrow_or_measured_as_long(
    interval: list[float], seconds: float, settled: bool, enough: bool
) -> None:
    profile = {"ratio": 1.2, "ratio_ci": interval, "max_seconds": seconds, "settled": settled}
    assert good_enough(profile, LatencySettings(max_seconds=0.8)) is enough


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"output_tokens": 2}, "--output-tokens 2 is too small: give 3 or more"),
        ({"concurrency": 0}, "--concurrency 0 is too small: give 1 or more"),
        ({"half_width": -0.1}, "--half-width -0.1 must be a number from 0"),
    ],
)
def test_settings_that_make_no_request_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        replace(QUICK, **change)
    assert str(caught.value) == sentence


def test_an_encoder_whose_configuration_names_no_end_of_sequence_is_timed() -> None:
    config = MobileBertConfig(
        vocab_size=64,
        hidden_size=16,
        embedding_size=16,
        intra_bottleneck_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    assert not hasattr(config, "eos_token_id")
    base = MobileBertForSequenceClassification(config).eval()
    assert measure_pair(base, base, QUICK, encoder=True, seed=0)["ratio"] > 0
