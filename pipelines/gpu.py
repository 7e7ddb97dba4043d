"""Says why torch cannot compute on this machine's GPUs."""

import os
from pathlib import Path

import torch

_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder per GPU


def gpu_problem() -> str:
    """Return why torch cannot compute on the NVIDIA GPUs of this machine, as a sentence; empty if
    it can, or there are none, or CUDA_VISIBLE_DEVICES hides them."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if hidden or not any(_GPUS.glob("*")):
        return ""
    if torch.version.cuda is None:
        return (
            f"this machine has an NVIDIA GPU, but torch {torch.__version__} is a build without "
            "CUDA; install a CUDA build of torch, or set the device to cpu"
        )
    try:
        torch.cuda.init()
    except RuntimeError as error:
        cause = str(error).splitlines()[0].rstrip(".")
        return (
            f"torch {torch.__version__} cannot use the NVIDIA GPU of this machine ({cause}); "
            "update the driver, or set the device to cpu"
        )
    return ""
