"""Memory that runs out: which errors say so, and what there is again after one."""

from __future__ import annotations

import torch

#: What errors of no class of their own say: of torch on a CPU, of CUDA outside torch's own allocator, and of cuBLAS.
_WORDS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Of the machine or of a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS)


def free_memory() -> None:
    """Give back what a device's allocator holds in vain."""
    torch.cuda.empty_cache()  # nothing, where no GPU is in use
