"""The base class of errors that the user can correct, and the causes of other errors."""

import errno


class UserError(Exception):
    """An error that the user can correct.

    The message says what is wrong, the received value and what to do; commands print it without a
    traceback. Every other exception counts as a bug.
    """


# PyTorch reports a failed allocation as a RuntimeError with one of these texts.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cuda_error_out_of_memory",
)

# CUDA's descriptions of errors that the hardware or its driver causes, see `cudaError` in the CUDA
# Runtime API.
_GPU_FAULTS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "gpu is lost",
    "cuda error: unknown error",
    "no cuda-capable device is detected",
    "cuda-capable device(s) is/are busy or unavailable",
    "all cuda-capable devices are busy or unavailable",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or on a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    )


def is_gpu_fault(error: BaseException) -> bool:
    """Whether a GPU or its driver failed, and not the computation."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _GPU_FAULTS)


# SQLite, and libraries in other languages, report a full disk with one of these texts.
_DISK_FULL = ("no space left on device", "disk is full", "disk quota exceeded")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from or during, is the lack of disk space."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(current).lower() for words in _DISK_FULL):
            return True
        current = current.__cause__ or current.__context__
    return False
