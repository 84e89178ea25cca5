"""What an error says of the device: that memory is short, or that this process can use it no more."""

from __future__ import annotations

import gc

import torch

#: What errors of no class of their own say: of torch on a CPU, of CUDA outside torch's own allocator, and of cuBLAS.
_WORDS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Of the machine or of a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS)


def is_broken_for_good(error: BaseException) -> bool:
    """After an illegal access or a failed assertion every later call on the device raises, in this process alone."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def is_of_the_device(error: BaseException) -> bool:
    """Either: nothing is known from it of what was tried."""
    return is_out_of_memory(error) or is_broken_for_good(error)


def free_memory() -> None:
    """Let go of what refers to itself, and give back what a device's allocator holds in vain.

    Not where the error is still handled: its traceback holds the tensors of every frame.
    """
    gc.collect()
    torch.cuda.empty_cache()  # nothing, where no GPU is in use
