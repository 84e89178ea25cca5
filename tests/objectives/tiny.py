"""Tiny models with random weights, tiny tokenizers and rows, made on the fly: no test reads a real one."""

from __future__ import annotations

import copy
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BltConfig,
    DistilBertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from objectives.data import Row, Task, TaskData
from objectives.encoding import EncodedTask, encode
from objectives.model import Kind, load_model, meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import Placement

VOCABULARY = 320
_SIZES = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA |= {"num_key_value_heads": 2, "max_position_embeddings": 256}

#: What differs between architectures and matters here: grouped heads, Conv1D, soft-capped logits, shifted positions,
#: experts fused into one parameter, a state instead of a cache, and encoders.
CONFIGURATIONS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_SIZES, **_LLAMA),
    "gpt2": lambda: GPT2Config(**_SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "gemma2": lambda: Gemma2Config(
        **_SIZES, **_LLAMA, head_dim=8, final_logit_softcapping=4.0, attn_logit_softcapping=2.0, sliding_window=8
    ),
    "opt": lambda: OPTConfig(
        **_SIZES,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=256,
        dropout=0.0,
    ),
    "mixtral": lambda: MixtralConfig(**_SIZES, **_LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "mamba": lambda: MambaConfig(**_SIZES, hidden_size=32, num_hidden_layers=2, state_size=8),
    "bert": lambda: BertConfig(
        **_SIZES, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    ),
    "distilbert": lambda: DistilBertConfig(**_SIZES, dim=32, hidden_dim=48, n_layers=2, n_heads=4),
}
ENCODERS = ("bert", "distilbert")
CAUSAL = tuple(name for name in CONFIGURATIONS if name not in ENCODERS)


def make_blt() -> Any:
    """A causal model whose class cannot make the state that generation goes on from."""
    part = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    outer = part | {"vocab_size": VOCABULARY, "hidden_size_global": 64}
    config = BltConfig(
        vocab_size=VOCABULARY,
        cross_attn_k=2,
        encoder_hash_byte_group_vocab=64,
        encoder_hash_byte_group_nb_functions=1,
        encoder_hash_byte_group_size=[3],
        patcher_config=part | {"vocab_size": VOCABULARY},
        encoder_config=outer,
        decoder_config=outer,
        global_config=part | {"hidden_size": 64},
    )
    return AutoModelForCausalLM.from_config(config).eval()


_CORPUS = (
    "the cat sat on the mat. where is the city of Rome? who wrote this book?\nAnswer: yes no not sure maybe\n"
    "how many people live in the city? number location person description entity abbreviation red blue green "
    "name : The Eagle | food : French | price : cheap. The Eagle is a cheap French place."
)


def make_tokenizer(*, behind: bool = False, eos: bool = True, chat: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts a <s> in front; with ``behind`` also a </s> after, as some tokenizers do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>", "<user>", "<bot>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if behind else "<s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>" if eos else None,
        pad_token="<pad>",
        additional_special_tokens=["<user>", "<bot>"],
    )
    fast.chat_template = chat
    return fast


def make_word_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece as of BERT: lower case, [CLS] in front, [SEP] behind. Its trainer breaks ties by chance: none here."""
    words = re.findall(r"[a-z]+", _CORPUS.lower())
    characters = sorted(set(_CORPUS.lower()) - set(string.whitespace) | set(string.digits))
    pieces = [*characters, *(f"##{character}" for character in characters), *sorted(set(words) - set(characters))]
    vocabulary = {piece: i for i, piece in enumerate(["[CLS]", "[SEP]", "[PAD]", "[UNK]", *pieces])}
    assert len(vocabulary) <= VOCABULARY
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


class Zoo:
    """The tiny models, each made and loaded once; who changes one takes a copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bases: dict[str, Any] = {}

    def folder(self, name: str) -> Path:
        """A model folder with weights and tokenizer, as a user has it. An encoder comes without a trained head."""
        folder = self._folder / name
        if not folder.exists():
            torch.manual_seed(0)
            encoder = name in ENCODERS
            auto = AutoModelForSequenceClassification if encoder else AutoModelForCausalLM
            model = auto.from_config(CONFIGURATIONS[name]())
            # Larger than the usual initialisation, so that predictions differ and tests compare more than noise.
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(4)
                if name == "llama":
                    model.lm_head.weight.mul_(4)  # so that a trained model can be sure of a token
            if encoder:
                model = getattr(model, model.base_model_prefix)
            partial = folder.with_name(f".{name}")
            model.save_pretrained(partial)
            (make_word_tokenizer() if encoder else make_tokenizer()).save_pretrained(partial)
            partial.rename(folder)  # whole or absent: a test that breaks in between must not break the others
        return folder

    def base(self, name: str, labels: tuple[str, ...] = ("no", "not sure", "yes")) -> Any:
        """The frozen base model in eval mode, shared by all tests."""
        if name not in self._bases:
            torch.manual_seed(0)
            encoder = name in ENCODERS
            self._bases[name] = load_model(
                self.folder(name),
                "encoder" if encoder else "causal",
                torch.float32,
                "cpu",
                labels=list(labels) if encoder else None,
            )
        return self._bases[name]

    def copy(self, name: str) -> Any:
        return copy.deepcopy(self.base(name))

    def space(self, name: str) -> ModuleSpace:
        kind: Kind = "encoder" if name in ENCODERS else "causal"
        config = CONFIGURATIONS[name]()
        return module_space(meta_model(config, kind), config, kind)

    def tokenizer(self, name: str) -> Any:
        return AutoTokenizer.from_pretrained(self.folder(name))


def make_data(task: Task, rows: dict[str, list[tuple[str, str]]]) -> TaskData:
    """Rows of (input, target); splits that are not given are those of train."""
    splits = {
        split: tuple(
            Row(text, target, () if task == "classification" or split == "train" else (target,))
            for text, target in rows.get(split, rows["train"])
        )
        for split in ("train", "validation", "test")
    }
    labels = tuple(sorted({target for _, target in rows["train"]})) if task == "classification" else ()
    return TaskData("tiny", task, splits, labels, "0" * 16, ())


#: Three labels, one of which begins another; inputs of different lengths.
LABELLED = [
    (f"{'the cat sat on the mat. ' * (n % 4)}{word} {n}?", {"who": "not sure", "where": "no", "how": "yes"}[word])
    for n in range(12)
    for word in ("who", "where", "how")
]
DIALOGUES = [
    (f"name : The Eagle | food : {food} | price : {price}", f"The Eagle is a {price} {food} place.")
    for food in ("French", "red", "blue", "green")
    for price in ("cheap", "not cheap")
]


def make_task(zoo: Zoo, name: str, task: Task = "classification", max_tokens: int = 128) -> EncodedTask:
    """A small task encoded for a model of the zoo."""
    rows = LABELLED if task == "classification" else DIALOGUES
    data = make_data(task, {"train": rows, "validation": rows[::2], "test": rows[1::2]})
    kind: Kind = "encoder" if name in ENCODERS else "causal"
    return encode(data, zoo.tokenizer(name), kind, max_tokens=max_tokens)


def all_groups(space: ModuleSpace, rank: int = 4) -> Placement:
    return Placement.of((group.name for group in space.groups), rank)


def shake(model: Any) -> None:
    """Random values for every B, which starts at zero: an adapter that changes the output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def give_biases(model: Any) -> None:
    """Random values for the bias of every linear layer, which starts at zero: one left out then changes the output."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | Conv1D) and module.bias is not None and not module.bias.any():
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
