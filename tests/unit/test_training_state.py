"""A state comes back as it was: every kind of value, to the last bit, through the files of a checkpoint."""

import math
import random
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from trainwright.contracts.checkpoint import CheckpointManifest
from trainwright.training import checkpoints
from trainwright.training.parts import check_fillable, fill
from trainwright.training.snapshot import Snapshots

MANIFEST = CheckpointManifest(step=1, saved_at=datetime.now(UTC), files={})


def stored(folder: Path, **parts: Any) -> checkpoints.Stored:
    checkpoints.write(folder, MANIFEST, Snapshots().take(parts), {})
    return checkpoints.Stored(checkpoints.whole_folders(folder)[0])


def same(left: Any, right: Any) -> bool:
    """Compare type by type and bit by bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        alike = left.dtype == right.dtype and left.shape == right.shape and left.stride() == right.stride()
        return bool(alike and bits(left) == bits(right))
    if isinstance(left, np.ndarray | np.generic):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return bool(left == right)


def bits(tensor: torch.Tensor) -> bytes:
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return plain.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_the_comparison_of_these_tests_sees_what_is_different() -> None:
    assert not same({"a": 1}, {"a": True})
    assert not same(0.0, -0.0)
    assert not same((1,), [1])
    assert not same(torch.ones(2, 3).t(), torch.ones(3, 2))
    assert not same({1: 2, 3: 4}, {3: 4, 1: 2})
    assert not same(torch.zeros(2), torch.tensor([0.0, 5e-324], dtype=torch.float64).float() - 0.0 + 1e-40)


PLAIN: dict[str, Any] = {
    "nothing": None,
    "flags": [True, False],
    "numbers": [0, -1, 2**200, 0.1, -0.0, 1e-320, 1.7976931348623157e308],
    "odd": [math.nan, math.inf, -math.inf],
    "text": ["", "höhe\n\0", "\ud800", "🧭"],
    "bytes": [b"", bytes(range(256))],
    "tuples": ((), (1, (2, [3, ()])), torch.Size([2, 3])[:1] == (2,)),
    "keys": {1: "a", "1": "b", -3: {"deep": {0: None}}, "tensor": {"key": "x"}, "": {}},
    "looks like a node": {"float": "nan"},
    "complex": complex(1.5, math.inf),
    "ordered": OrderedDict(b=1, a=2),
    "milestones": Counter({10: 1, 30: 2}),
    "default": defaultdict(list, {3: [1]}),
    "window": deque([1.0, 2.0], maxlen=5),
    "sets": [{1, 2}, frozenset("ab"), set()],
    "numpy": [np.float32(0.1), np.int64(-5), np.bool_(True), np.float64("nan"), np.str_("x")],
}


def test_plain_values_come_back_exactly(tmp_path: Path) -> None:
    assert same(stored(tmp_path, part=PLAIN)["part"], PLAIN)
    assert stored(tmp_path, part=PLAIN)["part"]["window"].maxlen == 5
    assert not list(tmp_path.glob("*/*.safetensors")), "no tensors, no file of tensors"


TORCH = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def test_tensors_of_every_type_come_back_exactly(tmp_path: Path) -> None:
    noise = torch.randint(0, 2, (7 * 16,), dtype=torch.uint8)
    raw = torch.randint(0, 256, (7 * 16,), dtype=torch.uint8)
    tensors = {
        str(dtype): (noise if dtype is torch.bool else raw)[: 7 * dtype.itemsize].view(dtype).clone()
        for dtype in TORCH
    }
    assert same(stored(tmp_path, part=tensors)["part"], tensors)


def test_tensors_of_every_shape_come_back_exactly(tmp_path: Path) -> None:
    base = torch.randn(4, 6, 5, 3)
    parameter = torch.nn.Parameter(torch.randn(3, 3))
    tensors = {
        "number": torch.tensor(math.pi, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": torch.randn(5, 7).t(),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    }
    views = {"sliced": base[:, ::2, 1], "expanded": torch.randn(3, 1).expand(3, 4), "parameter": parameter}
    found = stored(tmp_path, part={**tensors, **views})["part"]
    assert same({name: found[name] for name in tensors}, tensors)
    assert all(torch.equal(found[name], view) for name, view in views.items())
    assert type(found["parameter"]) is torch.Tensor


def test_arrays_come_back_exactly(tmp_path: Path) -> None:
    arrays = {
        "number": np.array(1.5),
        "empty": np.empty((0, 3), np.int16),
        "big endian": np.arange(5, dtype=">f8"),
        "days": np.array(["2020-01-01", "NaT"], "datetime64[D]"),
        "names": np.array(["a", "bcd"]),
        "half": np.arange(3, dtype=np.float16),
        "complex": np.array([1j, 2]),
        "long": np.arange(6, dtype=np.longdouble),
        "flags": np.array([True, False]),
    }
    views = {"sliced": np.arange(20)[::3], "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    found = stored(tmp_path, part={**arrays, **views})["part"]
    assert same({name: found[name] for name in arrays}, arrays)
    assert all(np.array_equal(found[name], view) for name, view in views.items())
    assert found["fortran"].flags.f_contiguous
    assert found["sliced"].flags.writeable


def test_tied_weights_are_kept_once_and_are_one_again(tmp_path: Path) -> None:
    weight = torch.randn(100, 100)
    tied = {"in": weight, "out": weight.detach(), "other": weight.clone()}
    found = stored(tmp_path, part=tied)["part"]
    found["in"][0, 0] = 7.0
    assert found["out"][0, 0] == 7.0
    assert found["other"][0, 0] != 7.0
    (file,) = tmp_path.glob("*/part.safetensors")
    assert file.stat().st_size < 2.1 * weight.nbytes


def test_a_library_that_reads_safetensors_reads_the_weights(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5)).to(torch.bfloat16)
    found = stored(tmp_path, model=model, odd=torch.zeros(2, dtype=torch.complex128))
    read = safetensors.torch.load_file(found.folder / "model.safetensors")
    assert same({name: read[name] for name in model.state_dict()}, dict(model.state_dict()))
    assert safetensors.torch.load_file(found.folder / "odd.safetensors")["odd"].nbytes == 32


def test_modules_optimisers_and_schedulers_come_back_exactly(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    weights = list(model.parameters())
    groups: list[dict[str, Any]] = [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:]}]
    optimizer = torch.optim.AdamW(groups, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    found = stored(tmp_path, **parts)
    for name, part in parts.items():
        assert same(found[name], part.state_dict()), name  # type: ignore[attr-defined]
    assert found["model"]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    fill("model", other, found["model"])
    assert same(other.state_dict(), model.state_dict())
    fresh = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    fill("scheduler", fresh, found["scheduler"])
    assert isinstance(fresh.milestones, Counter)


def test_a_copy_is_what_the_state_was_and_the_memory_is_used_again(tmp_path: Path) -> None:
    weights, snapshots = torch.zeros(1000), Snapshots()
    first = snapshots.take({"part": {"weights": weights}})[0]
    weights += 1
    assert not any(first.data)
    second = snapshots.take({"part": {"weights": weights}})[0]
    assert second.data.obj is first.data.obj
    assert snapshots.take({"part": {"weights": torch.ones(2000)}})[0].data.nbytes == 8000


class Hooked:
    def state_dict(self) -> dict[str, Any]:
        return {"state": {0: {"hook": len}}}


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (Hooked(), r"optimizer\.state\.0\.hook is a builtin_function_or_method; a checkpoint holds objects"),
        ({"a": [1, Path()]}, r"optimizer\.a\.1 is a pathlib\.PosixPath"),
        (Pair(1, 2), "optimizer is a .*Pair"),
        ({(1, 2): 3}, r"optimizer has the key \(1, 2\), a tuple; use str or int keys"),
        ({True: 3}, "optimizer has the key True, a bool; use str or int keys"),
        ({"a": np.array([object()])}, r"optimizer\.a is a numpy\.ndarray of dtype object"),
        ({"a": np.ma.masked_array([1.0])}, r"optimizer\.a is a numpy\.ma\.MaskedArray"),
        ({"a": torch.ones(2, 2).to_sparse()}, r"optimizer\.a is a cpu tensor of layout torch\.sparse_coo"),
        ({"a": torch.ones(2, device="meta")}, r"optimizer\.a is a meta tensor"),
        (defaultdict(Path), r"optimizer is a collections\.defaultdict"),
    ],
)
def test_what_cannot_be_kept_is_named_with_its_place(part: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        Snapshots().take({"optimizer": part})


def test_a_tree_that_contains_itself_is_refused() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(TypeError, match="nested deeper than 200 levels; does it contain itself"):
        Snapshots().take({"tree": tree})


def test_what_can_be_changed_is_filled_in_place(tmp_path: Path) -> None:
    shuffle, noise = np.random.default_rng(3), torch.Generator().manual_seed(4)
    dice = random.Random(5)
    made: dict[str, Any] = {
        "journal": {"seen": [1], "best": 0.5}, "rows": [1, 2],
        "array": np.arange(3.0), "tensor": torch.arange(3.0),
        "shuffle": shuffle, "noise": noise, "dice": dice, "scaler": None,
    }  # fmt: skip
    found = stored(tmp_path, **made)
    expected = (shuffle.random(), torch.rand(1, generator=noise), dice.random())
    targets: dict[str, Any] = {
        "journal": {"other": 1}, "rows": [], "array": np.zeros(3), "tensor": torch.zeros(3, requires_grad=True),
        "shuffle": np.random.default_rng(9), "noise": torch.Generator(), "dice": random.Random(), "scaler": None,
    }  # fmt: skip
    for name, target in targets.items():
        check_fillable(name, target)
        fill(name, target, found[name])
    assert targets["journal"] == made["journal"]
    assert targets["rows"] == [1, 2]
    assert same(targets["array"], made["array"])
    assert torch.equal(targets["tensor"], made["tensor"])
    again = (targets["shuffle"].random(), torch.rand(1, generator=targets["noise"]), targets["dice"].random())
    assert again == expected
    for target in (torch.zeros(4), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(
            ValueError, match=r"tensor is \(\d,\) of .*; the checkpoint holds \(3,\) of torch.float32"
        ):
            fill("tensor", target, found["tensor"])
    with pytest.raises(ValueError, match="the checkpoint holds a list"):
        fill("tensor", torch.zeros(2), found["rows"])
    with pytest.raises(
        TypeError, match=r"epoch is a int, which cannot be filled .* or read run\.resumed\.state\['epoch'\]"
    ):
        check_fillable("epoch", 3)
