"""Weights that a checkpoint keeps quantised: what is known of them before any is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from objectives.errors import ModelError
from objectives.model import unloadable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: Where ModelOpt wrote what it did before it wrote it into config.json too.
MODELOPT = "hf_quant_config.json"


def check_quantised(config: PreTrainedConfig, folder: Path) -> None:
    """A search would start workers first, each of which would say it.

    Raises ModelError where the weights need a package that is not here, or are quantised in a way that transformers
    does not know: it would take the integers for the weights, without their scales and without a word.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    given = getattr(config, "quantization_config", None)
    if given is None and (folder / MODELOPT).is_file():
        given = {"quant_method": "modelopt"}
    if given is None:
        return
    how = given if isinstance(given, dict) else given.to_dict()
    try:
        known = AutoHfQuantizer.supports_quant_method(how)
        if known:
            AutoHfQuantizer.from_config(given, pre_quantized=True).validate_environment()
    except ImportError as error:
        raise ModelError(unloadable(folder, error)) from error
    except Exception:  # such as no GPU, which a worker elsewhere may have: it is said when one loads the model
        return
    if not known:
        raise ModelError(
            f"{folder} is quantised by {how.get('quant_method')!r}, which transformers cannot read: "
            "give the checkpoint that it was made from."
        )
