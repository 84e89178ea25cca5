"""vLLM's own command line where there is no GPU and none of its kernels: what they compute is written here in PyTorch.

    python -m benchmarks.vllm_on_cpu serve MODEL --enable-lora ...      as `vllm serve`, all options are its own

For checks of what is asked of a server and what it answers, on a wheel of vLLM beside a torch for CPUs: API, scheduler,
cache of prefixes, LoRA layers and models are vLLM's. Its speed is not. Attention is the plain causal one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB

import torch


def take_python_kernels() -> None:
    """Patches vLLM in this process. Exits where vLLM cannot be imported."""
    try:
        import vllm.platforms
    except ImportError as error:
        raise SystemExit(f"error: vLLM cannot be imported here ({error}): run this where it is installed") from error
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()
    import vllm._custom_ops as ops
    from vllm.model_executor.custom_op import CustomOp

    torch.accelerator.empty_cache = lambda: None
    CustomOp.dispatch_forward = lambda self, *_, **__: self.forward_native
    ops.cpu_attn_get_scheduler_metadata = lambda **_: torch.empty(0)
    ops.cpu_attn_reshape_and_cache = _keep
    ops.cpu_attention_with_kv_cache = _attend
    _define("init_cpu_memory_env(int[] nodes) -> str", lambda nodes: "")
    _define("greedy_argmax(Tensor logits) -> Tensor", lambda logits: logits.argmax(-1))
    _define("compute_slot_mapping_kernel_impl(Tensor s, Tensor p, Tensor t, Tensor(a!) out, int size) -> ()", _slots)


_LIBRARY: Any = torch.library.Library("_C", "FRAGMENT")  # type: ignore[no-untyped-call]


def _define(schema: str, compute: Any) -> None:
    _LIBRARY.define(schema)
    _LIBRARY.impl(schema.partition("(")[0], compute, "CompositeExplicitAutograd")


def _slots(starts: torch.Tensor, positions: torch.Tensor, blocks: torch.Tensor, out: torch.Tensor, size: int) -> None:
    """(tokens,) slots of the cache; ``starts`` are (requests + 1,), ``blocks`` numbers of blocks, a row a request."""
    for row, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        at = positions[first:last]
        out[first:last] = blocks[row][at // size].long() * size + at % size


def _keep(
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    *_: Any,
    **__: Any,
) -> None:
    """(tokens, heads, width) into (blocks, heads, size, width); a slot below zero is padding."""
    size, real = keys.shape[2], slots >= 0
    block, at = slots[real] // size, slots[real] % size
    keys[block, :, at] = key[: len(slots)][real].to(keys.dtype)
    values[block, :, at] = value[: len(slots)][real].to(values.dtype)


def _attend(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    output: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    block_table: torch.Tensor,
    **_: Any,
) -> None:
    """Each request's new tokens, (tokens, heads, width), over all that the cache has of it."""
    starts, size = query_start_loc.tolist(), key_cache.shape[2]
    for row, length in enumerate(seq_lens.tolist()):
        first, last = starts[row], starts[row + 1]
        if first == last:
            continue
        blocks = block_table[row][: -(-length // size)].long()
        key, value = (
            cache[blocks].transpose(0, 1).flatten(1, 2)[None, :, :length] for cache in (key_cache, value_cache)
        )
        seen = torch.ones(last - first, length, dtype=torch.bool).tril(length - (last - first))
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query[first:last].transpose(0, 1)[None], key, value, attn_mask=seen, scale=scale, enable_gqa=True
        )
        output[first:last] = mixed[0].transpose(0, 1).reshape(output[first:last].shape)


def main() -> None:
    from vllm.entrypoints.cli.main import main as vllm

    sys.argv[0] = "vllm"
    vllm()


if __name__ in ("__main__", "__mp_main__"):  # the latter in the processes that vLLM spawns
    take_python_kernels()
if __name__ == "__main__":
    main()
