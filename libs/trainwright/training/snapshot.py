"""The copy of a state in host memory: what a training loop waits for when it saves.

A part's arrays and tensors are copied into one buffer, in the order in which its safetensors file holds them. The
buffer is kept for the next save: memory that is new costs more than the copy. Tensors of a GPU are copied into
pinned memory, all at once, and waited for once.
Not here: writing (checkpoints.py).
"""

import ctypes
import json
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainwright.training.parts import state_of
from trainwright.training.state import Encoder, Leaf

_NAMES = {
    "bool": "BOOL", "|b1": "BOOL",
    "uint8": "U8", "|u1": "U8", "int8": "I8", "|i1": "I8",
    "uint16": "U16", "<u2": "U16", "int16": "I16", "<i2": "I16",
    "uint32": "U32", "<u4": "U32", "int32": "I32", "<i4": "I32",
    "uint64": "U64", "<u8": "U64", "int64": "I64", "<i8": "I64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float16": "F16", "<f2": "F16", "bfloat16": "BF16",
    "float32": "F32", "<f4": "F32", "float64": "F64", "<f8": "F64",
}  # fmt: skip
"""What safetensors calls a type; any other is kept as bytes, and state.json says what they are."""


@dataclass(frozen=True, slots=True)
class PartCopy:
    """Hold a part as it was: its tree, and its bytes as a safetensors file's header (if it has any) and data."""

    name: str
    tree: Any
    header: bytes
    data: memoryview


class Snapshots:
    """Copy parts into buffers that are used again; a copy is good until the same part is taken again."""

    def __init__(self) -> None:
        self._buffers: dict[str, _Buffer] = {}

    def take(self, parts: dict[str, Any]) -> list[PartCopy]:
        """Return copies of the parts; TypeError names what a checkpoint cannot hold."""
        found = []
        for name, part in parts.items():
            encoder = Encoder()
            tree = encoder.encode(state_of(part), name)
            found.append((name, tree, encoder.leaves))
        copies = []
        for name, tree, leaves in found:
            # The widest first: then each lies at a multiple of its width, and no hole is needed.
            leaves.sort(key=lambda leaf: -leaf.itemsize)
            buffer = self._buffers.setdefault(name, _Buffer())
            data = buffer.fill(leaves)
            copies.append(PartCopy(name, tree, _header(leaves) if leaves else b"", data))
        for buffer in self._buffers.values():
            buffer.settle()
        return copies

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers.clear()


class _Buffer:
    def __init__(self) -> None:
        self._memory: Any = None
        self._tensor: Any = None  # the same memory, when it is pinned
        self._address = 0
        self._pinned = False
        self._views: dict[tuple[Any, ...], Any] = {}
        self._devices: set[Any] = set()

    def fill(self, leaves: list[Leaf]) -> memoryview:
        """Copy the leaves one behind the other; those of a GPU have arrived after `settle()`."""
        size = sum(leaf.nbytes for leaf in leaves)
        if not size:
            return memoryview(b"")
        on_gpu = any(leaf.torch and leaf.source.device.type == "cuda" for leaf in leaves)
        if self._memory is None or len(self._memory) < size:
            self._allocate(size, on_gpu)
        start = 0
        for leaf in leaves:
            if leaf.nbytes:
                source = leaf.source
                if leaf.torch and _is_plain(source):
                    # One thread: torch's copy asks all of them and waits for those that a busy machine holds back.
                    ctypes.memmove(self._address + start, source.data_ptr(), leaf.nbytes)
                elif leaf.torch:
                    if source.device.type == "cuda":
                        self._devices.add(source.device)
                    self._view(leaf, start).copy_(source, non_blocking=self._pinned)
                else:
                    self._view(leaf, start)[...] = source
                start += leaf.nbytes
        return memoryview(self._memory)[:size]

    def settle(self) -> None:
        """Wait for what is still on its way from a GPU."""
        for device in self._devices:
            sys.modules["torch"].cuda.current_stream(device).synchronize()
        self._devices.clear()

    def _allocate(self, size: int, pinned: bool) -> None:
        self._views.clear()
        self._memory = self._tensor = None  # before the new one: both together may be too much
        self._pinned = False
        if pinned:
            torch = sys.modules["torch"]
            with suppress(RuntimeError):  # the system has no more memory to pin: a copy in two steps then
                self._tensor = torch.empty(size, dtype=torch.uint8, pin_memory=True)
                self._memory = self._tensor.numpy()
                self._pinned = True
        if self._memory is None:
            import numpy

            self._memory = numpy.empty(size, dtype=numpy.uint8)
        self._address = int(self._memory.ctypes.data)

    def _view(self, leaf: Leaf, start: int) -> Any:
        """Return the place of a leaf as an array or a tensor of its type and shape."""
        place = (start, leaf.torch, leaf.dtype, leaf.shape)
        if place not in self._views:
            piece = self._memory[start : start + leaf.nbytes]
            if leaf.torch:
                torch = sys.modules["torch"]
                view = (
                    torch.from_numpy(piece) if self._tensor is None else self._tensor[start : start + leaf.nbytes]
                )
                self._views[place] = view.view(getattr(torch, leaf.dtype)).view(leaf.shape)
            else:
                self._views[place] = piece.view(leaf.dtype).reshape(leaf.shape)
        return self._views[place]


def _is_plain(tensor: Any) -> bool:
    """Return whether a tensor's memory is what is to be kept, as it lies there."""
    is_cpu = tensor.device.type == "cpu"
    return is_cpu and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _header(leaves: list[Leaf]) -> bytes:
    """Return the start of a safetensors file: the header's length, and the header."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt" if any(leaf.torch for leaf in leaves) else "np"}}
    start = 0
    for leaf in leaves:
        name = _NAMES.get(leaf.dtype)
        entries[leaf.key] = {
            "dtype": name or "U8",
            "shape": list(leaf.shape) if name else [leaf.nbytes],
            "data_offsets": [start, start + leaf.nbytes],
        }
        start += leaf.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
