"""What a search prepares beyond its request."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    CTRLConfig,
    CTRLLMHeadModel,
    ReformerConfig,
    ReformerModelWithLMHead,
)

from objectives.errors import ModelError, RequestError
from objectives.placement import Placement
from objectives.sources import find
from search.prepare import _default_workers, prepare, threads_for
from search.spec import SearchSpec
from tests.objectives.tiny import VOCABULARY, Zoo, make_tokenizer


@pytest.mark.parametrize(
    ("limit", "workers", "threads"),
    [(None, 2, 4), (None, 3, 2), (None, 16, 1), ("1", 1, 1), ("3", 2, 3), ("64", 2, 4), ("2,1", 1, 2), ("many", 2, 4)],
)
def test_a_worker_has_its_share_of_the_cores_within_the_users_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, workers: int, threads: int
) -> None:
    monkeypatch.setattr("search.prepare.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert threads_for(workers) == threads


@pytest.mark.parametrize(
    ("devices", "gpus", "workers"),
    [(8, None, 8), (4, 1.0, 4), (5, 2.0, 2), (1, 4.0, 1), (2, 0.1, 12), (2, 0.5, 4), (5, 0.4, 10), (5, 0.6, 5)],
)
def test_no_worker_waits_for_a_gpu_or_a_core_by_default(
    monkeypatch: pytest.MonkeyPatch, devices: int, gpus: float | None, workers: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: devices)
    monkeypatch.setattr("search.prepare.cores", lambda: 12)
    assert _default_workers(SearchSpec(gpus_per_trial=gpus)) == workers


@pytest.mark.parametrize(
    ("gpus", "budget", "workers", "asked", "pack"),
    [
        (0.5, 40, 2, None, 8),
        (0.5, 24, 4, None, 6),  # so that none of them waits for the others
        (1.0, 3, 8, None, 1),
        (0.0, 40, 2, None, 1),
        (0.0, 40, 2, 3, 3),
    ],
)
def test_a_worker_on_a_gpu_trains_a_pack(gpus: float, budget: int, workers: int, asked: int | None, pack: int) -> None:
    """Also where only the cluster has GPUs: the driver goes by what it was told of them."""
    spec = SearchSpec(gpus_per_trial=gpus, budget=budget, workers=workers, pack=asked)
    assert prepare(spec).spec.pack == pack


@pytest.mark.parametrize(("gpus", "uses"), [(0.0, False), (0.5, True), (None, False)])
def test_trials_without_gpus_are_given_none(monkeypatch: pytest.MonkeyPatch, gpus: float | None, uses: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert prepare(SearchSpec(gpus_per_trial=gpus, workers=1)).assignment.uses_gpu is uses


def test_what_people_copy_is_tried_at_the_middle_rank() -> None:
    references = prepare(SearchSpec(workers=1, ranks=(4, 8, 16))).references
    assert {placement.rank for placement in references} == {8}
    assert "o_proj only" in references.values()


def test_data_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub's data set, or of a gigabyte, twice is long."""
    reads: list[str] = []

    def counting(source: str, columns: Any) -> Any:
        reads.append(source)
        return find(source, columns)

    monkeypatch.setattr("objectives.data.find", counting)
    assert {split: len(rows) for split, rows in prepare(SearchSpec(workers=1)).assignment.task.splits.items()} == {
        "train": 3000,
        "validation": 500,
        "test": 1000,
    }
    assert len(reads) == 1


def test_rows_that_no_training_sees_are_not_tokenised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows they are, only the seed decides; steps that see more of them get more."""
    monkeypatch.setattr("search.prepare._TRAIN_ROWS", 40)
    rows = "".join(f'{{"text": "where is the cat {n}", "label": "{n % 3}"}}\n' for n in range(100))
    (tmp_path / "rows.jsonl").write_text(rows)
    spec = SearchSpec(data=str(tmp_path / "rows.jsonl"), workers=1, steps=2, batch_size=16)
    few = prepare(spec)
    assert len(few.assignment.task.splits["train"]) == 40
    assert "train: 40 of 80 rows used" in few.facts["notes"]
    assert prepare(spec).assignment.task == few.assignment.task
    more = prepare(replace(spec, accumulate=2))
    assert len(more.assignment.task.splits["train"]) == 64
    assert more.facts["data_hash"] == few.facts["data_hash"]
    every = prepare(replace(spec, steps=5))
    assert len(every.assignment.task.splits["train"]) == 80
    assert not any(note.startswith("train:") for note in every.facts["notes"])


def test_what_is_taken_of_the_demonstration_beside_ones_own_is_told(tmp_path: Path) -> None:
    """Nothing else in a result says that its rows are not those that were meant."""
    model = Zoo(tmp_path).folder("llama")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "cat {n}", "label": "{n % 2}"}}\n' for n in range(60)))
    data = str(tmp_path / "rows.jsonl")
    own_model = prepare(SearchSpec(model=str(model), workers=1))
    own_data = prepare(SearchSpec(data=data, workers=1))
    assert own_model.facts["notes"][0] == (
        "no --data was given: the rows are the demonstration's, messages to a web shop"
    )
    assert own_data.facts["notes"][0] == (
        "no --model was given: the base model is the demonstration's, a Llama of 0.2 million parameters"
    )
    for whole in (SearchSpec(workers=1), SearchSpec(model=str(model), data=data, workers=1), own_model.spec):
        assert not any("demonstration" in note for note in prepare(whole).facts["notes"])


@pytest.mark.parametrize(
    ("strategy", "told"), [("auto", False), ("additive", False), ("random", True), ("grid", True), ("tpe", True)]
)
def test_a_strategy_that_cannot_end_a_search_early_says_so(strategy: str, told: bool) -> None:
    notes = prepare(SearchSpec(strategy=strategy, stop_when="settled", workers=1)).facts["notes"]
    assert notes == (
        [f"--stop-when settled is not used: --strategy {strategy} does not tell when a front is settled"] * told
    )


def test_a_model_of_the_hub_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Zoo(tmp_path).folder("llama")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "cat {n}", "label": "{n % 2}"}}\n' for n in range(60)))
    spec = SearchSpec(model="acme/tiny", data=str(tmp_path / "rows.jsonl"), workers=1)
    asked = prepare(spec)
    assert (asked.assignment.hub_id, asked.assignment.model) == ("acme/tiny", snapshot)
    assert prepare(replace(spec, model=str(snapshot))).assignment.hub_id is None


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="the package is there")
def test_quantised_weights_without_their_package_are_refused_before_any_worker_starts(tmp_path: Path) -> None:
    folder = Zoo(tmp_path).folder("llama")
    config = json.loads((folder / "config.json").read_text())
    gptq = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    (folder / "config.json").write_text(json.dumps(config | gptq))
    with pytest.raises(ModelError, match=r"optimum.*: install that package"):
        prepare(SearchSpec(model=str(folder), workers=1))


def test_a_model_that_could_not_learn_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    """Its trials raised, one after the other."""
    config = ReformerConfig(
        vocab_size=VOCABULARY, hidden_size=32, feed_forward_size=48, num_attention_heads=4, attention_head_size=8,
        attn_layers=["local", "lsh"], axial_pos_embds=False, max_position_embeddings=256, is_decoder=True,
    )  # fmt: skip
    ReformerModelWithLMHead(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError) as refusal:
        prepare(SearchSpec(model=str(tmp_path), workers=1))
    assert str(refusal.value) == (
        f"model {tmp_path} (reformer) has reversible layers, which learn only where gradients reach the embeddings, "
        "and an adapter leaves those frozen: choose another model"
    )


def test_an_answer_ends_where_the_model_s_folder_says(tmp_path: Path) -> None:
    folder = Zoo(tmp_path).folder("llama")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 4]}')
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "cat {n}", "completion": "{n}"}}\n' for n in range(60)))
    asked = prepare(SearchSpec(model=str(folder), data=str(tmp_path / "rows.jsonl"), workers=1))
    assert asked.assignment.task.ends == [1, 4] and asked.facts["scoring"]["end_ids"] == [1, 4]


def test_positions_that_depend_on_the_length_of_rows_are_told(tmp_path: Path) -> None:
    folder = Zoo(tmp_path).folder("llama")
    config = json.loads((folder / "config.json").read_text())
    factors = {"factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rotary = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rotary | factors}))
    notes = prepare(SearchSpec(model=str(folder), workers=1)).facts["notes"]
    assert [note for note in notes if "more than 128 tokens (LongRoPE)" in note]


def test_rows_are_such_as_the_model_takes(tmp_path: Path) -> None:
    """Within its positions and its vocabulary, and of an encoder-decoder with the one end that it classifies by."""
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=24,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    BartForSequenceClassification(config).save_pretrained(tmp_path / "bart")
    make_tokenizer(behind=True).save_pretrained(tmp_path / "bart")
    texts = (f"who wrote{'</s>' * (n % 2)} book {n}? {'the cat sat on the mat ' * (n % 3)}" for n in range(60))
    rows = [json.dumps({"text": text, "label": len(text) % 2}) for text in texts]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    spec = SearchSpec(model=str(tmp_path / "bart"), data=str(tmp_path / "rows.jsonl"), workers=1)
    prompts = [row.prompt for split in prepare(spec).assignment.task.splits.values() for row in split]
    assert max(map(len, prompts)) == 24
    assert {prompt.count(1) for prompt in prompts} == {1}
    (tmp_path / "bart" / "config.json").write_text(json.dumps(config.to_dict() | {"vocab_size": 8}))
    with pytest.raises(ModelError, match="where the model has 8: restore the tokenizer files"):
        prepare(spec)


def test_the_head_of_an_encoder_counts_for_the_size_of_an_adapter(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    rows = "".join(f'{{"text": "where is the cat {n}", "label": "{n % 3}"}}\n' for n in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    spec = SearchSpec(model=str(zoo.folder("bert")), data=str(tmp_path / "rows.jsonl"), ranks=(4,), workers=1)
    least = min(zoo.space("bert").groups, key=lambda group: (group.parameters_per_rank, group.name))
    smallest = 4 * 4 * least.parameters_per_rank  # bytes
    head = 4 * (32 * 3 + 3)
    assert prepare(replace(spec, max_adapter_mb=(smallest + head) / 1e6)).space.count(1) == 1
    with pytest.raises(RequestError) as caught:
        prepare(replace(spec, max_adapter_mb=(smallest + head - 1) / 1e6))
    assert str(caught.value) == (
        f"--max-adapter-mb {(smallest + head - 1) / 1e6:g} allows no placement: the smallest, {least.name} r4, has "
        f"{(smallest + head) / 1e6}; give that or more, or a lower one of --ranks"
    )


def test_activations_of_a_model_that_cannot_checkpoint_them(tmp_path: Path) -> None:
    """Each trial failed with it, one by one."""
    config = CTRLConfig(vocab_size=320, n_embd=16, n_layer=1, n_head=2, dff=16, n_positions=64)
    CTRLLMHeadModel(config).save_pretrained(tmp_path / "ctrl")
    make_tokenizer().save_pretrained(tmp_path / "ctrl")
    spec = SearchSpec(model=str(tmp_path / "ctrl"), workers=1, ranks=(4,))
    assert prepare(spec).spec.gradient_checkpointing is False
    with pytest.raises(RequestError) as caught:
        prepare(replace(spec, gradient_checkpointing=True))
    assert str(caught.value) == (
        "--gradient-checkpointing: transformers has none for model type 'ctrl': leave it out; where memory is short "
        "take a smaller --batch-size with --accumulate"
    )


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (
            ["/x/search/__main__.py", "run", "--template", "Q: {text}\nA:"],
            "python -m search run --template 'Q: {text}\nA:'",
        ),
        (["/x/bin/target-search", "run", "--seed", "3"], "python -m search run --seed 3"),
        (["/x/ipykernel_launcher.py", "-f", "kernel.json"], "Search.run(SearchSpec(model="),
    ],
)
def test_the_command_that_is_kept_can_be_given_again(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert prepare(SearchSpec(seed=3, workers=1)).facts["command"].startswith(command)


BASELINES = [
    ("q_proj,v_proj", Placement.of(["q_proj", "v_proj"], 8)),
    ("v_proj + q_proj r4", Placement.of(["q_proj", "v_proj"], 4)),
    (" q_proj r8 ", Placement.of(["q_proj"], 8)),
]


@pytest.mark.parametrize(("written", "placement"), BASELINES)
def test_the_baseline_is_tried_first_and_has_one_spelling(written: str, placement: Placement) -> None:
    prepared = prepare(SearchSpec(workers=1, ranks=(4, 8), baseline=written))
    assert prepared.baseline == placement and prepared.again == [placement]
    assert prepared.spec.baseline == placement.label
    assert next(iter(prepared.references)) == placement
    known = {Placement.of(["q_proj", "v_proj"], 8): "q + v"}
    assert prepared.references[placement] == known.get(placement, "baseline")
    assert prepare(prepared.spec).baseline == placement, "as a resume reads it"


def test_a_search_among_some_groups_proposes_no_others() -> None:
    """The model keeps all of them: what attaches to a band, and where, does not depend on what is searched."""
    asked = SearchSpec(
        workers=1, ranks=(4, 8), bands=2, groups=("o_proj", "q_proj@last"), baseline="o_proj+q_proj@last"
    )
    prepared = prepare(asked)
    some = ("q_proj@last", "o_proj@first", "o_proj@last")
    assert prepared.space.groups == prepared.spec.groups == some
    assert {group for placement in prepared.space for group in placement.groups} == set(some)
    assert all(set(placement.groups) <= set(some) for placement in prepared.references)
    assert list(prepared.references.values()) == ["all of --groups", "o_proj only"]
    targets = prepared.assignment.space.target_modules(Placement.of(["q_proj@last"], 4))
    assert all(target.startswith("model.layers.") for target in targets), "and not the name of all bands"
    everything = [group.name for group in prepared.assignment.space.groups]
    assert prepare(replace(asked, groups=tuple(reversed(everything)))).spec.groups is None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"baseline": "q_proj r16"}, "--baseline q_proj r16 has rank 16, which --ranks 4,8 leaves out: add it there"),
        ({"baseline": "q_proj r0"}, "--baseline q_proj r0 has rank 0, which --ranks 4,8 leaves out: add it there"),
        (
            {"baseline": "q_proj+up_proj", "groups": ("q_proj",)},
            "--baseline q_proj+up_proj has up_proj, which --groups leaves out: add it there",
        ),
        (
            {"baseline": "q_proj,,k"},
            "--baseline q_proj,,k must be names separated by commas, for example q_proj,v_proj",
        ),
        (
            {"baseline": "q_proj+k_proj r8", "max_adapter_mb": 0.01},
            "--max-adapter-mb 0.01 does not allow --baseline k_proj+q_proj r8, which has 0.028672: give that or more",
        ),
    ],
)
def test_a_baseline_that_is_not_searched_is_refused(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as refusal:
        prepare(SearchSpec(workers=1, ranks=(4, 8), **asked))
    assert str(refusal.value) == sentence
