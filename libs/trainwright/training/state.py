"""State trees as JSON and raw tensors, exact both ways, so that nothing has to be unpickled.

`encode()` turns a tree of plain values, arrays and tensors into JSON nodes and a list of `Leaf`, whose bytes
are kept elsewhere under their keys; `decode()` turns both back. A node is None, a bool, an int, a finite float,
a str, a list of nodes, or an object with one member that names what it stands for.
Not here: copying the bytes (snapshot.py), files (checkpoints.py).
"""

import base64
import math
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEEPEST = 200
"""Levels of a tree; what is deeper contains itself."""
HOLDS = (
    "a checkpoint holds objects with state_dict(), dicts with str or int keys, lists, tuples, sets, numbers, str, "
    "bytes, None, numpy arrays and torch tensors"
)
_FACTORIES: dict[str, Any] = {"int": int, "float": float, "list": list, "dict": dict, "set": set}
_ARRAYS = "biufcmMSU"


@dataclass(frozen=True, slots=True)
class Leaf:
    """Name bytes of a tree: `source` is the array or tensor, `dtype` its type as numpy or torch spell it."""

    key: str
    source: Any
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    itemsize: int
    torch: bool


class Encoder:
    """Encode one tree; `leaves` are the arrays and tensors found, each storage that is used twice only once."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self._seen: dict[Any, str] = {}
        self._keys = {"__metadata__"}
        self._torch = sys.modules.get("torch")
        self._numpy = sys.modules.get("numpy")

    def encode(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """Return the node for `value`; TypeError names the place of what a checkpoint cannot hold."""
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if depth > DEEPEST:
            raise TypeError(f"{path[:80]}… is nested deeper than {DEEPEST} levels; does it contain itself?")
        if kind is list:
            return [self.encode(item, f"{path}.{place}", depth + 1) for place, item in enumerate(value)]
        if kind is dict:
            return self._mapping(value, path, depth)
        if self._torch is not None and isinstance(value, self._torch.Tensor):
            return self._tensor(value, path)
        if self._numpy is not None and isinstance(value, self._numpy.ndarray | self._numpy.generic):
            return self._array(value, path)
        return self._rare(value, kind, path, depth)

    def _rare(self, value: Any, kind: type, path: str, depth: int) -> Any:
        if kind is tuple or (kind.__module__ == "torch" and kind.__name__ == "Size"):
            return {"tuple": self.encode(list(value), path, depth)}
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        if kind is complex:
            return {"complex": [self.encode(value.real), self.encode(value.imag)]}
        if kind is OrderedDict:
            node = {"ordered": self._pairs(value, path, depth)}
            versions = getattr(value, "_metadata", None)  # of a torch module's state_dict
            return node if versions is None else {"module": [node, self.encode(versions, f"{path}._metadata")]}
        if kind is Counter:
            return {"counter": self._pairs(value, path, depth)}
        if kind is defaultdict and getattr(value.default_factory, "__name__", None) in _FACTORIES:
            return {"default": [value.default_factory.__name__, self._pairs(value, path, depth)]}
        if kind is deque:
            return {"deque": [value.maxlen, self.encode(list(value), path, depth)]}
        if kind is set or kind is frozenset:
            return {kind.__name__: self.encode(list(value), path, depth)}
        raise TypeError(f"{path} is {_named(value)}; {HOLDS}")

    def _mapping(self, value: dict[Any, Any], path: str, depth: int) -> Any:
        for key in value:
            if type(key) is not str:
                return {"pairs": self._pairs(value, path, depth)}
        return {"dict": {key: self.encode(item, f"{path}.{key}", depth + 1) for key, item in value.items()}}

    def _pairs(self, value: dict[Any, Any], path: str, depth: int) -> list[Any]:
        for key in value:
            if type(key) is not str and type(key) is not int:
                raise TypeError(f"{path} has the key {key!r}, {_named(key)}; use str or int keys")
        return [[key, self.encode(item, f"{path}.{key}", depth + 1)] for key, item in value.items()]

    def _tensor(self, value: Any, path: str) -> Any:
        torch: Any = self._torch
        if type(value) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise TypeError(f"{path} is {_named(value)}; pass plain tensors, such as its full_tensor()")
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise TypeError(
                f"{path} is a {value.device.type} tensor of layout {value.layout}, {value.dtype}; "
                "a checkpoint holds dense ones, so pass to_dense() or dequantize()"
            )
        value = value.detach()
        shape, stride = tuple(value.shape), value.stride()
        identity = (
            value.data_ptr(),
            shape,
            stride,
            value.dtype,
            str(value.device),
            value.is_conj(),
            value.is_neg(),
        )
        dtype = str(value.dtype).removeprefix("torch.")
        size = value.element_size()
        key = self._key(path, identity, value, (dtype, shape, value.numel() * size, size, True))
        node: dict[str, Any] = {"key": key, "dtype": dtype, "shape": shape}
        if not value.is_contiguous() and _is_dense(shape, stride):
            node["stride"] = stride
        return {"tensor": node}

    def _array(self, value: Any, path: str) -> Any:
        numpy: Any = self._numpy
        if value.dtype.kind not in _ARRAYS or not (
            type(value) is numpy.ndarray or isinstance(value, numpy.generic)
        ):
            raise TypeError(f"{path} is {_named(value)} of dtype {value.dtype}; a checkpoint holds plain numbers")
        dtype = value.dtype.str
        if isinstance(value, numpy.generic):
            return {"scalar": [dtype, base64.b64encode(value.tobytes()).decode()]}
        identity = (value.__array_interface__["data"][0], value.shape, value.strides, dtype)
        about = (dtype, value.shape, value.nbytes, value.dtype.itemsize, False)
        node: dict[str, Any] = {
            "key": self._key(path, identity, value, about),
            "dtype": dtype,
            "shape": value.shape,
        }
        if value.flags.f_contiguous and not value.flags.c_contiguous:
            node["order"] = "F"
        return {"array": node}

    def _key(self, path: str, identity: Any, source: Any, about: tuple[str, Any, int, int, bool]) -> str:
        known = self._seen.get(identity) if about[2] else None
        if known is not None:
            return known
        key = path.partition(".")[2] or path
        while key in self._keys:
            key += "'"
        self._keys.add(key)
        self._seen[identity] = key
        self.leaves.append(Leaf(key, source, *about))
        return key


class Decoder:
    """Decode nodes; `read` gives the bytes of a key. What was one storage is one again."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read
        self._made: dict[str, Any] = {}

    def decode(self, node: Any) -> Any:
        """Return what `node` stands for; ValueError when it is none of ours."""
        if isinstance(node, list):
            return [self.decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        if len(node) != 1:
            raise ValueError(f"a node has one member, not {len(node)}")
        ((kind, held),) = node.items()
        if kind == "dict":
            return {key: self.decode(item) for key, item in held.items()}
        if kind == "tensor":
            return self._tensor(held)
        if kind == "array":
            return self._array(held)
        return self._rare(kind, held)

    def _rare(self, kind: str, held: Any) -> Any:
        if kind == "pairs":
            return dict(self._pairs(held))
        if kind == "ordered":
            return OrderedDict(self._pairs(held))
        if kind == "counter":
            return Counter(dict(self._pairs(held)))
        if kind == "default":
            return defaultdict(_FACTORIES[held[0]], self._pairs(held[1]))
        if kind == "module":
            state = self.decode(held[0])
            state._metadata = self.decode(held[1])
            return state
        if kind == "deque":
            return deque(self.decode(held[1]), held[0])
        if kind == "complex":
            return complex(self.decode(held[0]), self.decode(held[1]))
        if kind == "bytes":
            return base64.b64decode(held, validate=True)
        if kind == "scalar":
            import numpy

            return numpy.frombuffer(base64.b64decode(held[1], validate=True), dtype=held[0])[0]
        makers: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
        if kind == "float":
            return float(held)
        if kind not in makers:
            raise ValueError(f"there is no kind of node {kind!r}")
        return makers[kind](self.decode(held))

    def _pairs(self, held: Any) -> list[tuple[Any, Any]]:
        return [(key, self.decode(item)) for key, item in held]

    def _tensor(self, node: dict[str, Any]) -> Any:
        key = node["key"]
        if key not in self._made:
            import torch

            dtype = getattr(torch, node["dtype"])
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{node['dtype']!r} is no type of torch")
            shape, stride = node["shape"], node.get("stride")
            # Memory of its own: where a tensor lies in memory may decide the last bit of what is computed from it.
            made = (
                torch.empty(shape, dtype=dtype)
                if stride is None
                else torch.empty_strided(shape, stride, dtype=dtype)
            )
            if made.numel():
                made.copy_(torch.frombuffer(self._read(key), dtype=dtype).view(shape))
            self._made[key] = made
        return self._made[key]

    def _array(self, node: dict[str, Any]) -> Any:
        key = node["key"]
        if key not in self._made:
            import numpy

            flat = numpy.frombuffer(self._read(key) or b"", dtype=node["dtype"])
            self._made[key] = numpy.array(flat.reshape(node["shape"]), order=node.get("order", "C"), copy=True)
        return self._made[key]


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether the elements fill their memory, each once, in another order than usual."""
    expected = 1
    for step, length in sorted(zip(stride, shape, strict=True)):
        if length == 1:
            continue
        if step != expected:
            return False
        expected *= length
    return True


def _named(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
