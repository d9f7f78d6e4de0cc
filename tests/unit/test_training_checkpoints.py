"""A folder of checkpoints: whole or not there, verified before it is used, kept small."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainwright.contracts.checkpoint import CheckpointKind, CheckpointManifest
from trainwright.training import checkpoints, layout
from trainwright.training.snapshot import Snapshots


def save(root: Path, step: int, *, value: Any = 0, **about: Any) -> Path:
    manifest = CheckpointManifest(step=step, saved_at=datetime.now(UTC), files={}, **about)
    parts = Snapshots().take({"model": {"weights": np.full(1000, step), "value": value}})
    checkpoints.write(root, manifest, parts, {"metrics": {"loss": [[step, 0.5]]}})
    return checkpoints.whole_folders(root)[0]


def steps(root: Path) -> list[int]:
    found = [checkpoints.manifest_of(folder) for folder in checkpoints.whole_folders(root)]
    return [manifest.step for manifest in found if manifest is not None]


def test_a_checkpoint_says_what_it_consists_of(tmp_path: Path) -> None:
    folder = save(tmp_path, 7, attempt=2, score=0.25, kind=CheckpointKind.STOP, environment={"torch": "2.9"})
    manifest = checkpoints.verify(folder)
    assert (manifest.step, manifest.attempt, manifest.kind, manifest.score) == (7, 2, "stop", 0.25)
    assert set(manifest.files) == {"model.safetensors", "state.json", "history.json"}
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert json.loads((folder / "history.json").read_text()) == {"metrics": {"loss": [[7, 0.5]]}}
    stored = checkpoints.Stored(folder)
    assert list(stored) == ["model"]
    assert len(stored) == 1
    assert np.array_equal(stored["model"]["weights"], np.full(1000, 7))


def test_a_step_that_is_saved_twice_is_there_twice_the_later_first(tmp_path: Path) -> None:
    for value in range(12):
        save(tmp_path, 3, value=value)
    found = [checkpoints.Stored(folder)["model"]["value"] for folder in checkpoints.whole_folders(tmp_path)]
    assert found == list(range(11, -1, -1))


def test_the_newest_three_the_best_and_the_newest_final_one_are_kept(tmp_path: Path) -> None:
    kinds = {2: CheckpointKind.FINAL, 3: CheckpointKind.FINAL}
    for step in range(1, 11):
        save(tmp_path, step, score=abs(step - 5), kind=kinds.get(step, CheckpointKind.PERIODIC))
        checkpoints.sweep(tmp_path)
    assert steps(tmp_path) == [10, 9, 8, 5, 3]
    assert not [path for path in tmp_path.iterdir() if layout.is_temporary(path)]


def damage(folder: Path, how: str) -> str:
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    if how == "flipped":
        raw[-1] ^= 1
        file.write_bytes(raw)
        return r"model\.safetensors is damaged: \d+ bytes with sha256 \w+…, its manifest says"
    if how == "cut":
        file.write_bytes(raw[:-8])
        return r"model\.safetensors is damaged"
    if how == "gone":
        file.unlink()
        return r"model\.safetensors cannot be read: No such file"
    manifest = json.loads((folder / "manifest.json").read_text())
    if how == "outside":
        manifest["files"]["../secret"] = manifest["files"].pop("state.json")
    if how == "newer":
        manifest["format"] = 2
    (folder / "manifest.json").write_text("{" if how == "torn" else json.dumps(manifest))
    return {"outside": "names a file outside", "newer": "reads 1", "torn": "the checkpoint is not whole"}[how]


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "outside", "newer", "torn"])
def test_a_damaged_checkpoint_is_refused_and_the_file_named(tmp_path: Path, how: str) -> None:
    folder = save(tmp_path, 1)
    checkpoints.verify(folder)
    error = damage(folder, how)
    with pytest.raises(checkpoints.CheckpointError, match=error):
        checkpoints.Stored(folder)


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its entry: damage that the hashes do not show."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


NODES: list[Any] = [
    {"pickle": "gASV"}, {"a": 1, "b": 2}, {"scalar": ["O", "AAAA"]}, {"default": ["eval", []]}, {"bytes": "?"},
    {"tensor": {"key": "none", "dtype": "float32", "shape": [1]}},
    {"tensor": {"key": "weights", "dtype": "load", "shape": [1]}},
    {"array": {"key": "weights", "dtype": "<i8", "shape": [7]}},
]  # fmt: skip


@pytest.mark.parametrize("node", NODES, ids=lambda node: next(iter(node)))
def test_a_state_that_is_none_of_ours_is_an_error_and_nothing_else(tmp_path: Path, node: Any) -> None:
    folder = save(tmp_path, 1)
    rewrite(folder, "state.json", json.dumps({"parts": {"model": node}}).encode())
    with pytest.raises(checkpoints.CheckpointError, match=r"'model' in .* cannot be read"):
        checkpoints.Stored(folder)["model"]


def test_a_file_that_is_no_state_or_no_tensors_is_an_error(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    tensors = (folder / "model.safetensors").read_bytes()
    for content in (b"", b"\xff" * 8, tensors[:-4000]):
        rewrite(folder, "model.safetensors", content)
        with pytest.raises(checkpoints.CheckpointError, match=r"'model' in .* cannot be read"):
            checkpoints.Stored(folder)["model"]
    rewrite(folder, "state.json", b"[]")
    with pytest.raises(checkpoints.CheckpointError, match=r"state\.json is not a checkpoint's state"):
        checkpoints.Stored(folder)


def test_a_part_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    stored = checkpoints.Stored(save(tmp_path, 4))
    with pytest.raises(KeyError) as caught:
        stored["optimizer"]
    assert str(caught.value) == "the checkpoint of step 4 has no 'optimizer'; it has model"
    assert isinstance(caught.value, checkpoints.CheckpointError)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        checkpoints.write(
            tmp_path,
            CheckpointManifest(step=2, saved_at=datetime.now(UTC), files={}),
            Snapshots().take({"model": 1}),
            {"metrics": object()},
        )
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001"]


SAVE_FOREVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import numpy as np
from trainwright.contracts.checkpoint import CheckpointManifest
from trainwright.training import checkpoints
from trainwright.training.snapshot import Snapshots
root, snapshots = Path(sys.argv[1]), Snapshots()
checkpoints.clean(root)
step = max([int(folder.name[5:15]) for folder in checkpoints.whole_folders(root)], default=0)
weights = np.zeros(500_000)
while True:
    step += 1
    weights[:] = step
    manifest = CheckpointManifest(step=step, score=step % 7, saved_at=datetime.now(UTC), files={})
    checkpoints.write(root, manifest, snapshots.take({"model": {"weights": weights}}), {})
    checkpoints.sweep(root)
    print(step, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_while_it_saves_leaves_whole_checkpoints_only(tmp_path: Path, seed: int) -> None:
    chance, said = random.Random(seed), 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = int(process.stdout.readline())
            time.sleep(chance.uniform(0, 0.06))  # not to wait for anything: the moment is what is drawn
            os.kill(process.pid, signal.SIGKILL)
            said = int((process.stdout.read().split() or [str(said)])[-1])
        found = checkpoints.whole_folders(tmp_path)
        for folder in found:
            assert np.all(checkpoints.Stored(folder)["model"]["weights"] == int(folder.name[5:]))
        assert steps(tmp_path)[0] >= said, "what was said to be saved is there"
        for path in tmp_path.iterdir():
            assert path in found or layout.is_temporary(path), path
    checkpoints.clean(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(checkpoints.whole_folders(tmp_path))
