"""The module space of structures made by hand: what models bring that transformers does not, and what none has yet."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel

from objectives.modules import module_space
from tests.objectives.test_modules import LLAMA, reasons


class Chooser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(8, 8)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.score(x)
        return scores


class Heir(Chooser):
    """Its own source does not show that it computes without gradients."""


class Halved(nn.Linear):
    """As a linear layer in parts computes: PEFT would add an update of another shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).chunk(2, dim=-1)[0]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.chooser, self.gate, self.parts = Heir(), nn.Linear(8, 8), Halved(8, 8)


def test_a_model_that_transformers_does_not_bring() -> None:
    """Code of its own has classes of any name: one that computes without gradients is told by that, a router by the
    experts beside it."""
    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Block()])
    space = module_space(model, LLAMA, "causal")
    assert [group.name for group in space.groups] == ["gate"]
    assert reasons(space) == {
        "chooser.score": "no gradient reaches it: an adapter would never learn",
        "parts": "Halved is not a plain linear map",
    }


class Sliced(nn.Module):
    """As Llama's attention of transformers 4.31 was, and that of many models that bring code made from it."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.o_proj = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.config.pretraining_tp > 1:
            slices = self.o_proj.weight.split(8 // self.config.pretraining_tp, dim=1)
            return torch.stack([x[..., : part.shape[1]] @ part.T for part in slices]).sum(0)
        projected: torch.Tensor = self.o_proj(x)
        return projected


@pytest.mark.parametrize(("slices", "groups"), [(1, ["o_proj"]), (2, [])])
def test_weights_that_are_read_only_in_slices_are_no_way_past_an_adapter(slices: int, groups: list[str]) -> None:
    """Without the flag, which hardly any checkpoint sets, the layer itself computes."""
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict({"self_attn": Sliced(LlamaConfig(pretraining_tp=slices))})])
    assert [group.name for group in module_space(model, LLAMA, "causal").groups] == groups


class Filled(nn.Module):
    """As RetNet's layers are: what fills a weight reads it by name."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        nn.init.xavier_uniform_(self.k_proj.weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.q_proj.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.k_proj(self.q_proj(x)), self.v_proj.weight)


def test_to_fill_a_weight_is_no_way_past_an_adapter() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict({"self_attn": Filled()})])
    space = module_space(model, LLAMA, "causal")
    assert [group.name for group in space.groups] == ["q_proj", "k_proj"]
    assert reasons(space) == {"self_attn.v_proj": "a fused kernel reads its weight and would pass by the adapter"}


def test_a_part_that_several_blocks_share_is_adapted_once_and_computed_in_each() -> None:
    """As Zamba's attention is: one set of weights, and its share of the products is what all its passes cost."""
    model, shared = nn.Module(), nn.ModuleDict({"o_proj": nn.Linear(8, 16)})
    model.layers = nn.ModuleList(
        nn.ModuleDict({"self_attn": shared, "mlp": nn.ModuleDict({"up_proj": nn.Linear(8, 16)})}) for _ in range(3)
    )
    space = module_space(model, LLAMA, "causal")
    output, up = space.group("o_proj"), space.group("up_proj")
    assert (output.paths, output.layers) == (("layers.0.self_attn.o_proj",), 1)
    assert (output.parameters_per_rank, up.parameters_per_rank) == (8 + 16, 3 * (8 + 16))
    assert output.products == up.products == 3 * 8 * 16


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(2, 8, 8))


class Part(PreTrainedModel):
    """Of a model of several modalities; its name tells none."""

    def __init__(self, leaf: str, *modalities: str) -> None:
        super().__init__(LlamaConfig())
        self.input_modalities = modalities
        self.layers = nn.ModuleList([nn.ModuleDict({leaf: nn.Linear(8, 8)})])


@pytest.mark.parametrize(("reads", "groups"), [(("image", "text"), ["up"]), (("image",), ["up", "gate"])])
def test_a_part_without_text_is_left_out_of_a_model_that_reads_text(reads: tuple[str, ...], groups: list[str]) -> None:
    model = Part("up", *reads)
    model.tower = Part("gate", "image")
    space = module_space(model, LLAMA, "causal")
    assert [group.name for group in space.groups] == groups
    assert reasons(space).get("tower") == ("not text: belongs to another modality" if "text" in reads else None)


def test_a_group_of_unlike_blocks() -> None:
    """Its role is that of most blocks that show one, and its layers are blocks, which may hold several experts each."""

    def block(holder: str, count: int) -> nn.ModuleDict:
        return nn.ModuleDict({holder: nn.ModuleList([nn.ModuleDict({"w2": nn.Linear(8, 4)}) for _ in range(count)])})

    model = nn.Module()
    model.layers = nn.ModuleList([block("mixer", 3), block("bottleneck", 2), block("bottleneck", 2)])
    space = module_space(model, PreTrainedConfig(d_model=48), "causal")
    (group,) = space.groups
    assert (group.name, group.role, group.layers, len(group.paths)) == ("w2", "down", 3, 7)
    assert (group.parameters_per_rank, space.hidden_size) == (7 * (8 + 4), 48)


def test_a_path_that_ends_another_one_is_no_target() -> None:
    """PEFT would adapt both. What is reached alone is offered all the same."""

    def layers() -> nn.ModuleList:
        return nn.ModuleList([nn.ModuleDict({"fc1": nn.Linear(8, 8), "experts": Stack()})])

    model = nn.Module()
    model.layers = layers()
    model.encoder = nn.ModuleDict({"layers": layers()})
    space = module_space(model, LLAMA, "causal")
    assert {path for group in space.groups for path in group.paths} == {
        "encoder.layers.0.fc1",
        "encoder.layers.0.experts.down_proj",
    }
    why = "its full path ends another one, so that PEFT cannot target it alone"
    assert reasons(space) == {"layers.0.fc1": why, "layers.0.experts.down_proj": why}


@pytest.mark.parametrize("name", ["vision_tower", "audio_encoder", "speech", "layout_embed", "image_newline"])
def test_what_is_called_after_another_modality_is_left_out(name: str) -> None:
    model = nn.Module()
    for part in ("text", name):
        block = nn.ModuleDict({"gate": nn.Linear(8, 8)})
        setattr(model, part, nn.ModuleDict({"layers": nn.ModuleList([block])}))
    space = module_space(model, LLAMA, "causal")
    assert [group.paths for group in space.groups] == [("text.layers.0.gate",)]
    assert reasons(space) == {name: "not text: belongs to another modality"}
