"""Model folders: what is read, and the one sentence that each broken folder gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaConfig,
    FNetConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    MptConfig,
    PLBartConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
    XLMConfig,
    XLNetConfig,
)

from objectives.errors import ModelError
from objectives.model import (
    CODE_FILES,
    SAFE_FILES,
    SECOND_COPIES,
    check_weights,
    context_length,
    kind_of,
    load_base,
    load_config,
    load_model,
    meta_model,
    resolve,
    shards,
)

SMALL_LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
)
SMALL_BERT = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "type_vocab_size": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a model")
    LlamaForCausalLM(SMALL_LLAMA).save_pretrained(folder, max_shard_size="12KB")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def message(function: object, *arguments: object) -> str:
    with pytest.raises(ModelError) as caught:
        function(*arguments)  # type: ignore[operator]
    return str(caught.value)


def test_a_folder_resolves_to_itself(folder: Path) -> None:
    assert resolve(str(folder)) == folder


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    missing = f"{tmp_path}/nothing"
    assert message(resolve, missing) == (
        f"{missing} does not exist: give the folder of a Hugging Face model, or a hub id."
    )


def test_a_file_is_no_model(folder: Path) -> None:
    file = str(folder / "config.json")
    assert message(resolve, file) == f"{file} is a file: give the folder of a Hugging Face model."


@pytest.mark.parametrize("given", ["~nobody-of-this-name/model", "a" * 5000])
def test_what_cannot_be_a_path(given: str) -> None:
    assert message(resolve, given) == (f"{given} does not exist: give the folder of a Hugging Face model, or a hub id.")


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    assert message(resolve, str(tmp_path)) == (
        f"{tmp_path} has no config.json: give the folder of a Hugging Face model."
    )


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert message(resolve, str(tmp_path)) == f"{tmp_path} has no config.json: it is an adapter; give its base model."


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = message(resolve, "nobody/no-such-model")
    assert said.startswith("nobody/no-such-model is no local folder, and the model hub does not give it (")
    assert said.endswith("): check the name and the network, or give a local folder.")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read"),
        ("[]", "names no model_type"),
        ('{"model_type": ["llama"]}', "names no model_type"),
        ('{"hidden_size": 8}', "names no model_type"),
        ('{"model_type": "no_such_type"}', "cannot use model type 'no_such_type'"),
        ('{"model_type": ' + "[" * 10**5, "cannot be read (maximum recursion depth exceeded"),
    ],
)
def test_a_broken_configuration(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(text)
    said = message(load_config, tmp_path)
    assert expected in said
    assert "\n" not in said


CODE = {"auto_map": {"AutoConfig": "code.Config"}}


@pytest.mark.parametrize(
    ("config", "trusted", "reason", "remedy"),
    [
        (
            {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 7},
            False,
            "The hidden size (64) is not a multiple of the number of attention heads (7)",
            "correct the file",
        ),
        ({"model_type": "llama", "hidden_size": "64"}, False, "Field 'hidden_size' expected int", "correct the file"),
        ({"model_type": "of_tomorrow"}, False, "does not recognize this architecture", "update transformers"),
        ({"model_type": "own", **CODE}, False, "contains custom code", "pass --trust-remote-code"),
        ({"model_type": "own", **CODE}, True, "a file named code.py", "download its code again"),
    ],
)
def test_what_helps_follows_from_what_is_wrong(
    tmp_path: Path, config: dict[str, Any], trusted: bool, reason: str, remedy: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = message(load_config, tmp_path, trusted)
    assert reason in said
    assert said.endswith(f"): {remedy}, or choose another model.")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (SMALL_LLAMA, "causal"),
        (GPT2Config(), "causal"),
        (BertConfig(), "encoder"),
        (BertConfig(is_decoder=True), "causal"),
        (BartConfig(), "encoder"),
        (T5Config(), "encoder"),
        (PLBartConfig(), "encoder"),
        (XLNetConfig(), "encoder"),
        (XLMConfig(), "encoder"),
        (XLMConfig(causal=True), "causal"),
        (Gemma3TextConfig(), "causal"),
        (Gemma3TextConfig(use_bidirectional_attention=True), "encoder"),
    ],
)
def test_kinds(config: object, kind: str) -> None:
    assert kind_of(config) == kind


def test_a_model_of_another_modality_has_no_kind() -> None:
    from transformers import ViTConfig

    assert message(kind_of, ViTConfig()) == (
        "Model type 'vit' is neither a causal language model nor an encoder that classifies text: choose another model."
    )


def test_structure_needs_no_weights(folder: Path) -> None:
    for shard in folder.glob("*.safetensors*"):
        shard.unlink()
    model = meta_model(load_config(folder), "causal")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_configuration_that_cannot_be_built() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4)
    config.hidden_act = "no_such_activation"
    assert "cannot build model type 'llama'" in message(meta_model, config, "causal")


def test_sharded_weights_pass(folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 1
    check_weights(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.unlink()
    assert message(check_weights, folder) == f"{shard} is missing, but the index names it: download it again."


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_shard_cut_short_is_named(folder: Path, keep: int) -> None:
    shard = sorted(folder.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:keep])
    said = message(check_weights, folder)
    assert said.startswith(f"{shard} is corrupted (")
    assert said.endswith("): download it again.")
    assert message(load_model, folder, "causal", torch.float32, "cpu") == said


@pytest.mark.parametrize(
    "text", ["{", "[" * 10**5, "[]", "5", '{"weight_map": []}', '{"weight_map": {"a": null, "b": "c"}}']
)
def test_a_broken_index_is_named(folder: Path, text: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    assert message(check_weights, folder).startswith(f"{index} is corrupted (")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert message(check_weights, tmp_path) == (
        f"{tmp_path} holds pickled weights (*.bin) only, and safe formats alone are read: convert it to safetensors."
    )


def test_no_weights_at_all(tmp_path: Path) -> None:
    assert message(check_weights, tmp_path) == f"{tmp_path} holds no model.safetensors: download the weights."


def test_weights_that_are_none(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    assert message(check_weights, tmp_path) == (f"{tmp_path}/model.safetensors holds no weights: download it again.")


def test_an_adapter_beside_the_model_is_refused(folder: Path) -> None:
    """transformers would load it with the model, whose accuracy and latency were then called the base model's."""
    (folder / "adapter_config.json").write_text("{}")
    expected = f"{folder} holds an adapter beside the model: merge it, or move adapter_config.json away."
    assert message(check_weights, folder) == message(load_model, folder, "causal", torch.float32, "cpu") == expected


def test_of_two_sets_of_weights_those_are_checked_that_are_loaded(folder: Path) -> None:
    """As a trainer leaves them that saves in one file, in a folder of shards."""
    torch.manual_seed(1)
    LlamaForCausalLM(SMALL_LLAMA).save_pretrained(folder / "whole")
    (folder / "whole" / "model.safetensors").rename(folder / "model.safetensors")
    assert (folder / "model.safetensors.index.json").is_file()
    found = shards(folder)
    stored = {name: tensor for file in found for name, tensor in load_file(file).items()}
    loaded = load_model(folder, "causal", torch.float32, "cpu")
    assert all(torch.equal(loaded.get_parameter(name), tensor) for name, tensor in stored.items())
    found[0].write_bytes(b"")
    assert message(check_weights, folder).startswith(f"{found[0]} is corrupted (")


def test_a_snapshot_holds_the_weights_once_and_every_tokenizer() -> None:
    there = [
        "config.json", "spiece.model", "bpe.codes", "vocab.txt", "chat_template.jinja",
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "modeling_custom.py", "own.tiktoken",
        "consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin",
    ]  # fmt: skip

    def taken(files: list[str]) -> list[str]:
        return list(filter_repo_objects(there, allow_patterns=files, ignore_patterns=SECOND_COPIES))

    assert taken(SAFE_FILES) == there[:7]
    assert taken(SAFE_FILES + CODE_FILES) == there[:9], "where its code is trusted"


@pytest.mark.parametrize("told", [{"return_dict": False}, {"output_hidden_states": True}, {"output_attentions": True}])
def test_what_a_checkpoint_would_rather_give_back_is_left_out(folder: Path, told: dict[str, bool]) -> None:
    """Hidden states of all layers are most of the memory of a pass; a tuple has no logits."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | told), "utf-8")
    output = load_model(folder, "causal", torch.float32, "cpu")(torch.arange(6)[None], use_cache=False)
    assert list(output) == ["logits"]


def test_what_a_checkpoint_would_rather_generate_with_is_left_out(folder: Path) -> None:
    ids = torch.arange(6)[None] % SMALL_LLAMA.vocab_size
    plain = load_model(folder, "causal", torch.float32, "cpu").generate(ids, max_new_tokens=12, do_sample=False)
    told = {"repetition_penalty": 5.0, "stop_strings": ["."], "return_dict_in_generate": True, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(told))
    found = load_model(folder, "causal", torch.float32, "cpu").generate(ids, max_new_tokens=12, do_sample=False)
    assert found.tolist() == plain.tolist()


def test_a_loaded_model_is_frozen(folder: Path) -> None:
    model = load_model(folder, "causal", torch.float32, "cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_of_another_configuration_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "its weights do not belong to its config.json" in message(load_model, folder, "causal", torch.float32, "cpu")


@pytest.mark.parametrize("made", [LlamaForSequenceClassification, LlamaModel])
def test_a_checkpoint_without_a_head_for_tokens_is_named(made: Any, tmp_path: Path) -> None:
    made(SMALL_LLAMA).save_pretrained(tmp_path)
    assert message(load_model, tmp_path, "causal", torch.float32, "cpu") == (
        f"{tmp_path} lacks the weights of lm_head.weight: as {made.__name__} it has no head that predicts tokens; give "
        "the causal model that it was made from."
    )


@pytest.mark.parametrize("where", ["from_pretrained", "to"])
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_model_for_which_memory_is_short_is_no_broken_download(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def short(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LlamaForCausalLM, where, short)
    assert message(load_model, folder, "causal", torch.float32, "cpu") == (
        f"{folder} does not fit into the memory that is left: free some, or take fewer --workers or a smaller model."
    )


@pytest.mark.parametrize(
    ("config", "computes_in"),
    [
        (BertConfig(**SMALL_BERT), torch.bfloat16),
        (T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2), torch.bfloat16),
        (FNetConfig(**SMALL_BERT), torch.float32),
        (DebertaConfig(**SMALL_BERT), torch.float32),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_model_is_loaded_in_what_it_computes_in(
    tmp_path: Path, config: PreTrainedConfig, computes_in: torch.dtype
) -> None:
    """A GPU's searches of the last two failed with the first batch."""
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = load_base(tmp_path, "encoder", torch.bfloat16, "cpu", labels=["no", "yes"])
    assert model.dtype == computes_in
    assert load_base(tmp_path, "encoder", torch.float32, "cpu", labels=["no", "yes"]).dtype == torch.float32


def test_memory_that_is_short_in_the_first_pass_says_nothing_of_the_precision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model would be loaded once more, at twice the size."""

    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LlamaForCausalLM, "forward", short)
    with pytest.raises(torch.OutOfMemoryError):
        load_base(folder, "causal", torch.bfloat16, "cpu")


def test_the_context_of_an_encoder_ends_where_its_positions_do() -> None:
    """RoBERTa counts from behind its padding, and says two more than it takes; XLNet says -1."""
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    roberta = meta_model(RobertaConfig(**small, intermediate_size=16, max_position_embeddings=34), "encoder")
    unlimited = SimpleNamespace(model_max_length=10**30)
    assert context_length(roberta, "encoder", unlimited) == 32
    assert context_length(roberta, "encoder", SimpleNamespace(model_max_length=20)) == 20
    assert context_length(meta_model(SMALL_LLAMA, "causal"), "causal", unlimited) == SMALL_LLAMA.max_position_embeddings
    roberta.config.max_position_embeddings = -1
    assert context_length(roberta, "encoder", unlimited) == 32


def test_the_context_of_a_model_that_counts_it_under_another_name() -> None:
    mpt = meta_model(MptConfig(vocab_size=64, d_model=16, n_layers=1, n_heads=2, max_seq_len=12), "causal")
    assert context_length(mpt, "causal") == 12


def test_code_comes_from_the_hub_only_where_it_is_trusted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: list[list[str]] = []

    def snapshot_download(hub_id: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve("someone/model") == resolve("someone/model", trust_remote_code=True) == folder
    assert ["*.py" in patterns for patterns in asked] == [False, True]
