"""Which errors are of memory, and which are for good."""

from __future__ import annotations

import weakref

import pytest
import torch

from objectives.device_errors import free_memory, is_broken_for_good, is_of_the_device, is_out_of_memory
from objectives.errors import in_a_line


@pytest.mark.parametrize(
    ("error", "short", "broken"),
    [
        (MemoryError(), True, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True, False),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False, True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (IndexError("index out of range in self"), False, False),
    ],
)
def test_what_an_error_says_of_the_device(error: Exception, short: bool, broken: bool) -> None:
    assert (is_out_of_memory(error), is_broken_for_good(error)) == (short, broken)
    assert is_of_the_device(error) == (short or broken)


def test_an_error_in_a_line() -> None:
    assert in_a_line(RuntimeError("one\ntwo")) == "RuntimeError: one"
    assert in_a_line(RuntimeError()) == "RuntimeError: no message"


def test_what_refers_to_itself_is_freed_too() -> None:
    module = torch.nn.Linear(2, 2)
    module.forward = module.forward  # type: ignore[method-assign]  # as a layer that is replaced on its instance
    kept = weakref.ref(module.weight)
    del module
    free_memory()
    assert kept() is None
