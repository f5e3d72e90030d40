"""Named tensors in safetensors files: no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from physgen.errors import CheckpointError
from physgen.io.guard import regular
from physgen.io.writer import write_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and wait until it is on the disk."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        # Tied weights share memory, which the format does not know.
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    write_bytes(path, save(plain))


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file; raises `CheckpointError` if it is damaged or none."""
    regular(path, CheckpointError)
    try:
        return load_file(path, device)
    # Beside its own error the library raises what Python, torch and the system do.
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is damaged, or not safetensors ({reason})") from error
