"""A model on disk: its folder, its configuration, its structure without weights, and the loaded base model."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from objectives.errors import ModelError, first_line
from objectives.pickles import refuse_pickles

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Kind = Literal["causal", "encoder"]

#: What a snapshot holds for us; no pickle is ever fetched. The merges of PhoBERT and BERTweet are called bpe.codes.
SAFE_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.codes", "*.jinja"]
#: And of a model that brings code of its own.
CODE_FILES = ["*.py", "*.tiktoken"]
#: The same weights once more, in the form of their makers, which transformers does not read.
SECOND_COPIES = ["*/*.safetensors", "consolidated*.safetensors"]

_OWN_CODE = "take the version of transformers that its code was written for, or choose another model"

LONGEST_HUB_ID = 96
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def resolve(model: str, trust_remote_code: bool = False, weights: bool = True) -> Path:
    """The folder of a model: ``model`` itself if it is one, otherwise a snapshot of that hub id, with its code if that
    is trusted; of its configuration alone unless ``weights``, which may be hundreds of gigabytes, are asked for.

    Raises ModelError if the folder or its config.json is missing, or if the hub cannot be reached.
    """
    # os.path, unlike pathlib, takes whatever a user may write: an unknown ~user, a name too long.
    folder = Path(os.path.expanduser(model))  # noqa: PTH111
    if os.path.isdir(folder):  # noqa: PTH112
        if not (folder / "config.json").is_file():
            is_adapter = (folder / "adapter_config.json").is_file()
            found = "it is an adapter; give its base model" if is_adapter else "give the folder of a Hugging Face model"
            raise ModelError(f"{model} has no config.json: {found}.")
        return folder
    if os.path.exists(folder):  # noqa: PTH110
        raise ModelError(f"{model} is a file: give the folder of a Hugging Face model.")
    if not HUB_ID.fullmatch(model) or len(model) > LONGEST_HUB_ID:
        raise ModelError(f"{model} does not exist: give the folder of a Hugging Face model, or a hub id.")
    return _snapshot(model, (SAFE_FILES if weights else ["config.json"]) + CODE_FILES * trust_remote_code)


def _snapshot(hub_id: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=files, ignore_patterns=SECOND_COPIES))
    except Exception as error:
        raise ModelError(
            f"{hub_id} is no local folder, and the model hub does not give it ({first_line(error)}): "
            "check the name and the network, or give a local folder."
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"{hub_id} has no config.json on the model hub: choose a transformers model.")
    return folder


def load_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Raises ModelError if config.json cannot be read or names a model type that transformers does not know."""
    from transformers import AutoConfig

    file = folder / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read ({first_line(error)}): restore the file.") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise ModelError(f"{file} names no model_type: it is not the configuration of a model.")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(
            f"{file}: transformers cannot use model type {raw['model_type']!r} ({first_line(error)}): "
            f"{remedy(error, _cure(raw, trust_remote_code) + ', or choose another model')}."
        ) from error


def _cure(raw: dict[str, Any], trusted: bool) -> str:
    from transformers import CONFIG_MAPPING

    if "auto_map" in raw:
        return "download its code again" if trusted else "pass --trust-remote-code"
    return "correct the file" if raw["model_type"] in CONFIG_MAPPING else "update transformers"


def kind_of(config: PreTrainedConfig) -> Kind:
    """Whether the model is adapted as a causal language model or as an encoder with a classification head.

    BERT-like types stand in both of transformers' mappings; they are encoders unless their configuration says that
    they decode. So are encoder-decoders that can classify, and XLNet and EmbeddingGemma, which attend both ways. Raises
    ModelError if the type is neither.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    def maps(auto: Any) -> bool:
        return type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {})

    def says(field: str) -> bool:
        return getattr(config, field, False) is True

    both_ways = getattr(config, "attn_type", None) == "bi" or says("use_bidirectional_attention")
    bidirectional = both_ways or (maps(AutoModelForMaskedLM) and not says("is_decoder") and not says("causal"))
    classifies = maps(AutoModelForSequenceClassification)
    if maps(AutoModelForCausalLM) and not (classifies and (bidirectional or says("is_encoder_decoder"))):
        return "causal"
    if classifies:
        return "encoder"
    raise ModelError(
        f"Model type {config.model_type!r} is neither a causal language model nor an encoder that classifies text: "
        "choose another model."
    )


def meta_model(config: PreTrainedConfig, kind: Kind, num_labels: int = 2) -> PreTrainedModel:
    """The structure of the model on the meta device: shapes and names, no weights, no memory.

    Raises ModelError if transformers cannot build the model from this configuration.
    """
    import torch

    if kind == "encoder":
        config.num_labels = num_labels
    # Configurations from remote code exist only after the user has trusted that code.
    trusted = type(config).__module__.startswith("transformers_modules")
    try:
        with torch.device("meta"):
            return _auto_class(kind).from_config(config, trust_remote_code=trusted)
    except Exception as error:
        raise ModelError(
            f"transformers cannot build model type {config.model_type!r} from its configuration "
            f"({first_line(error)}): {remedy(error, _OWN_CODE if trusted else 'check config.json')}."
        ) from error


def context_length(model: PreTrainedModel, kind: Kind, tokenizer: Any = None) -> int:
    """Tokens of one row that the model has positions for; sys.maxsize where none are counted.

    The ``tokenizer`` of an encoder may know of fewer.
    """
    from torch import nn

    text = model.config.get_text_config()
    limits = [getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len")]  # the latter MPT's
    if kind == "encoder" and tokenizer is not None:
        limits.append(tokenizer.model_max_length)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from behind its padding
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=sys.maxsize)


def check_weights(folder: Path) -> None:
    """Reads the header of every safetensors shard, none of the weights.

    Raises ModelError if weights are missing, if the folder holds a pickle or an adapter, or if a shard is missing, cut
    short or not safetensors at all.
    """
    from safetensors import SafetensorError, safe_open

    found = shards(folder)
    refuse_pickles(folder)
    if (folder / "adapter_config.json").is_file():  # transformers would put it on the base model without a word
        raise ModelError(f"{folder} holds an adapter beside the model: merge it, or move adapter_config.json away.")
    for shard in found:
        if not shard.is_file():
            raise ModelError(f"{shard} is missing, but the index names it: download it again.")
        try:
            with safe_open(shard, framework="pt") as weights:
                empty = not weights.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{shard} is corrupted ({first_line(error)}): download it again.") from error
        if empty:
            raise ModelError(f"{shard} holds no weights: download it again.")


def shards(folder: Path) -> list[Path]:
    """The files of the weights: those that transformers takes, should a folder hold two sets.

    Raises ModelError where none are named, or only pickled ones.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{index} is corrupted ({first_line(error)}): download it again.") from error
        return [folder / name for name in sorted(names)]
    if any(folder.glob("*.bin")):
        raise ModelError(
            f"{folder} holds pickled weights (*.bin) only, and safe formats alone are read: convert it to safetensors."
        )
    raise ModelError(f"{folder} holds no model.safetensors: download the weights.")


def load_base(
    folder: Path, kind: Kind, dtype: torch.dtype, device: torch.device | str, **given: Any
) -> PreTrainedModel:
    """:func:`load_model`, but in float32 where a model computes in that alone.

    So do FNet, for its Fourier transforms, and DeBERTa, XLNet and MRA, which make some numbers in float32 and combine
    them with the rest.
    """
    import torch

    model = load_model(folder, kind, dtype, device, **given)
    if dtype == torch.float32 or _computes(model):
        return model
    single = load_model(folder, kind, torch.float32, device, **given)
    return single if _computes(single) else model


def _computes(model: PreTrainedModel) -> bool:
    import torch

    from objectives.device_errors import is_of_the_device

    try:
        with torch.inference_mode():
            model(input_ids=torch.arange(4, device=model.device)[None])
    except Exception as error:
        if is_of_the_device(error):
            raise
        return False
    return True


def load_model(
    folder: Path,
    kind: Kind,
    dtype: torch.dtype,
    device: torch.device | str,
    labels: list[str] | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The frozen base model in evaluation mode. ``labels`` name the classes of an encoder, in the order of their ids.

    Its ``new_modules`` are the paths of an encoder's head, which is another task's if it has weights, and of a pooler
    that has none: an adapter has to train and keep them.

    Raises ModelError if the weights cannot be read, do not fit into memory or do not belong to the configuration.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    from objectives.device_errors import is_out_of_memory

    check_weights(folder)
    logging.disable_progress_bar()  # a second of loading between two lines of our own progress
    # What a configuration may ask for and nobody here reads; without the first, outputs have no names.
    told: dict[str, Any] = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
    if labels is not None:
        told |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    try:
        model, info = _auto_class(kind).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=kind == "encoder",  # the head of the checkpoint may have other classes
            **told,
        )
        model = model.to(device)
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"{folder} does not fit into the memory that is left: free some, or take fewer --workers or a smaller "
                "model."
            ) from error
        if "ignore_mismatched_sizes" in str(error):  # an argument of ours, which a user knows nothing of
            raise ModelError(f"{folder}: shapes of its weights differ from its config.json: restore both.") from error
        raise ModelError(unloadable(folder, error)) from error
    if missing := _untrained(model, kind, info):
        raise ModelError(_lacking(folder, model, missing))
    model.new_modules = _new_modules(model, kind, info)
    if kind == "causal":
        # What the checkpoint would rather do, such as a penalty for repetition, which no likelihood knows of.
        model.generation_config = GenerationConfig()
    return model.eval().requires_grad_(False)


def _absent(info: dict[str, Any]) -> list[str]:
    return [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]


def _untrained(model: PreTrainedModel, kind: Kind, info: dict[str, Any]) -> list[str]:
    """Weights that the checkpoint should have had: all of a causal model, the body of an encoder but its pooler."""
    if kind == "causal":
        return sorted(_absent(info))
    body = body_of(model)
    return sorted(key for key in _absent(info) if head_of(key, body) is None and "pooler" not in key)


def _new_modules(model: PreTrainedModel, kind: Kind, info: dict[str, Any]) -> list[str]:
    """The head, which is what stands beside the body, and the pooler if the checkpoint was trained without.

    A head with as many classes as the task has was trained on other classes all the same.
    """
    if kind == "causal":
        return []
    body = body_of(model)
    names = [name for name, _ in model.named_parameters()]
    # Where no part is the body, as code of a model's own may have it, that must not be taken for a head.
    beside = names if any(name.startswith(body) for name in names) else _absent(info)
    head = {path for name in beside if (path := head_of(name, body))}
    poolers = {key.partition("pooler")[0] + "pooler" for key in _absent(info) if head_of(key, body) is None}
    return sorted(head | poolers)


def _lacking(folder: Path, model: PreTrainedModel, missing: list[str]) -> str:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    why = "its weights do not belong to its config.json"
    saved_as = (model.config.architectures or [type(model).__name__])[0]
    if saved_as != type(model).__name__ and not any(key.startswith(model.base_model_prefix + ".") for key in missing):
        why = f"as {saved_as} it has no head that predicts tokens; give the causal model that it was made from"
    elif saved_as.endswith("EncoderModel"):
        why = f"as {saved_as} it has no decoder; give the model that it was made from"
    return f"{folder} lacks the weights of {missing[0]}{more}: {why}."


def body_of(model: PreTrainedModel) -> str:
    """What the weights of an encoder's body begin with: as its class says or, in code of a model's own that says it
    otherwise, the name of the part with the embeddings. No weights begin with it if that is not in a part.
    """
    from torch import nn

    stated = f"{model.base_model_prefix}."
    if any(name.startswith(stated) for name, _ in model.named_parameters()):
        return stated
    embeddings = (path for path, module in model.named_modules() if isinstance(module, nn.Embedding))
    part, dot, _ = next(embeddings, "").partition(".")
    return part + dot if dot else stated


def head_of(weight: str, body: str) -> str | None:
    """Path of the head that a weight of an encoder is part of; None in the ``body``, where only Perceiver has one."""
    if weight.startswith("perceiver.decoder."):
        return "perceiver.decoder"
    return None if weight.startswith(body) else weight.partition(".")[0]


def _auto_class(kind: Kind) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification


def remedy(error: BaseException, usual: str) -> str:
    """Some weights, structures and tokenizers need a package; code of a model's own what transformers no longer has."""
    if not isinstance(error, ImportError):
        return usual
    return _OWN_CODE if str(error).startswith("cannot import name") else "install that package, or choose another model"


def unloadable(folder: Path, error: BaseException) -> str:
    return f"{folder} cannot be loaded ({first_line(error)}): {remedy(error, 'download it again')}."
