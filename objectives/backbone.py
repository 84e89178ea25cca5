"""The frozen base model, and copies of it that carry one adapter each."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from objectives.adapter import WEIGHTS, adapter_at
from objectives.device_errors import is_of_the_device
from objectives.errors import ModelError, RequestError, first_line, in_a_line
from objectives.modules import ModuleSpace
from objectives.placement import CUSTOMARY_ALPHA, Alpha, Placement


def twin(model: nn.Module) -> Any:
    """A copy of the module tree that shares every parameter and buffer with ``model``.

    An adapter goes onto a twin: the base stays as it was loaded, so it can be timed beside the adapted model, and the
    next trial starts from a clean tree, at no cost in memory.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def attach(base: Any, space: ModuleSpace, placement: Placement, *, seed: int, alpha: Alpha = CUSTOMARY_ALPHA) -> Any:
    """A PEFT model of ``placement`` on a twin of ``base``; LoRA initialised from ``seed``, B at zero.

    What is new in an encoder (see :func:`objectives.model.load_model`) is trained beside, and saved with the adapter.
    All that is trained is in float32, whatever the base is in.

    Raises ModelError where a package is installed that PEFT refuses.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if space.kind == "encoder" else TaskType.CAUSAL_LM,
        r=placement.rank,
        lora_alpha=alpha.at(placement.rank),
        lora_dropout=0.0,
        target_modules=space.target_modules(placement),
        target_parameters=space.target_parameters(placement) or None,
        modules_to_save=list(base.new_modules) or None,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # Conv1D holds its weight transposed; PEFT sees that by itself, and says so for every layer.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        # PEFT 0.21 asks for it by the name that transformers 5.24 replaces.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
        with _peft():
            adapted = get_peft_model(twin(base), config)
    widen_head(adapted)
    return adapted


def load_adapter(base: Any, location: str) -> Any:
    """A PEFT model in eval mode with a stored adapter, on a twin of ``base``.

    Raises RequestError for a pickle, and for an adapter that its own configuration does not fit; ModelError as
    :func:`attach`.
    """
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    with adapter_at(location, None) as folder, _peft():
        try:
            adapted = PeftModel.from_pretrained(twin(base), str(folder)).eval()
        except (RuntimeError, ValueError, TypeError) as error:
            if is_of_the_device(error):
                raise
            raise RequestError(
                f"adapter {location} does not fit its own configuration ({in_a_line(error)}): export it again"
            ) from error
        if widen_head(adapted):  # whose weights were rounded when PEFT read them
            set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))
    return adapted.get_base_model()


@contextmanager
def _peft() -> Iterator[None]:
    """Raises ModelError for a package that PEFT refuses, as a torchao that is too old, whether it is needed or not."""
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"PEFT makes no adapter here ({first_line(error)}): update that package, or remove it, on all machines of "
            "the search."
        ) from error


def widen_head(adapted: nn.Module) -> bool:
    """Cast an encoder's head and what else of a PEFT model is no LoRA from half precision to float32, and its inputs.

    PEFT does that for LoRA weights alone. In bfloat16 an update below a 512th of its weight is rounded away.
    False if there was nothing to cast.
    """
    from peft.utils.other import ModulesToSaveWrapper

    found = False
    for module in list(adapted.modules()):
        for own in module.modules_to_save.values() if isinstance(module, ModulesToSaveWrapper) else ():
            if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in own.parameters()):
                own.float().register_forward_pre_hook(_widened, with_kwargs=True)
                found = True
    return found


def _widened(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def wide(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tuple(map(wide, args)), {name: wide(value) for name, value in kwargs.items()}


def decoding_state(output: Any) -> dict[str, Any]:
    """What a model's output says about the tokens so far, under the argument name that the next call takes.

    transformers calls every state ``cache`` from 5.24 on; before, attention and state-space models had names of their
    own. Empty if the model keeps none.
    """
    for name in ("cache", "past_key_values", "cache_params", "state"):
        state = getattr(output, name, None)
        if state is not None:
            return {name: state}
    return {}


def positions_argument(model: Any) -> bool:
    """Whether the model takes the positions of its tokens; the others see them from mask or state."""
    return "position_ids" in inspect.signature(model.forward).parameters
