"""A task document on its way out: where it is wrong, and which files go along."""

from pathlib import Path

import pytest

from trainwright.cli import config, uploads
from trainwright.cli.console import CommandError
from trainwright.cli.documents import prepare, read_document


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
BOMB += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("bad.yaml", "name: a\nrecipe: [script\n", "bad.yaml:3:1: "),
        ("tab.yaml", "name: a\n\trecipe: script\n", "tab.yaml:2:1: "),
        ("twice.yaml", "name: a\nrecipe: x\nname: b\n", "twice.yaml:3:1: the key 'name' is written twice"),
        ("bad.json", '{"name": "a",\n "recipe": }', "bad.json:2:12: Expecting value"),
        ("twice.json", '{"name": "a", "name": "b"}', "the key 'name' is written twice"),
        (
            "nan.yaml",
            "parameters: {rates: [1, .nan]}\n",
            "parameters.rates.1 is nan, which is not a finite number",
        ),
        ("nan.json", '{"parameters": {"x": NaN}}', "parameters.x is nan"),
        ("key.yaml", "parameters:\n  3: a\n", "the key 3 in parameters is not text"),
        ("set.yaml", "parameters: {x: !!set {a, b}}\n", "parameters.x is a set"),
        ("loop.yaml", "parameters: &a {again: *a}\n", "nested deeper than"),
        ("deep.yaml", "x: " + "[" * 3000 + "]" * 3000, "nested deeper than"),
        ("deep.json", '{"x": ' + "[" * 30000 + "]" * 30000 + "}", "nested deeper than"),
        ("bomb.yaml", BOMB, "holds more than 100000 values"),
        ("long.yaml", "x: " + "9" * 5000, "Exceeds the limit"),
        ("long.json", '{"x": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("half.json", '{"parameters": {"x": "\\ud800"}}', "half a character"),
        ("list.yaml", "- a\n", "holds a list; a task document is a mapping"),
        ("empty.yaml", "", "holds nothing; a task document is a mapping"),
    ],
)
def test_a_bad_document_is_refused_with_its_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(CommandError) as caught:
        read_document(path)
    assert says in str(caught.value)


def test_dates_stay_what_was_written_and_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    document = tmp_path / "a.yaml"
    document.write_bytes(b"\xef\xbb\xbfname: 2024-01-31\nparameters: {since: 2024-01-01T00:00:00Z}\n")
    assert read_document(document) == {"name": "2024-01-31", "parameters": {"since": "2024-01-01T00:00:00Z"}}
    as_json = tmp_path / "a.json"
    as_json.write_bytes(b'\xef\xbb\xbf{"name": "a"}')
    assert read_document(as_json) == {"name": "a"}


def test_a_tilde_means_the_readers_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    prepared = prepare(
        {"recipe": "script", "parameters": {"path": "~/a.py"}, "data": {"path": "~/b.csv"}}, tmp_path
    )
    assert prepared.config["parameters"]["path"] == str(tmp_path / "a.py")
    assert prepared.config["data"]["path"] == str(tmp_path / "b.csv")


def test_a_missing_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nowhere\.yaml does not exist"):
        read_document(tmp_path / "nowhere.yaml")


def test_a_document_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is a folder; name the task document in it"):
        read_document(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(CommandError, match=r"latin\.yaml cannot be read: 'utf-8' codec"):
        read_document(latin)


def test_a_home_of_nobody_is_told_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"~nobody-of-this-name/a\.py: "):
        prepare({"recipe": "script", "parameters": {"path": "~nobody-of-this-name/a.py"}}, tmp_path)


@pytest.mark.parametrize("source", [b"import helper\ndef (\n", b"import helper\n\0"], ids=["syntax", "zero"])
def test_a_script_that_python_cannot_read_goes_along_alone(tmp_path: Path, source: bytes) -> None:
    """The run itself will show what is wrong with it."""
    (tmp_path / "train.py").write_bytes(source)
    write(tmp_path / "helper.py", "")
    prepared = prepare({"recipe": "script", "parameters": {"path": "train.py"}}, tmp_path)
    assert [upload.source.name for upload in prepared.uploads] == ["train.py"]


def test_a_gitignore_that_is_none_is_named(tmp_path: Path) -> None:
    write(tmp_path / "job/train.py", "")
    write(tmp_path / "job/.gitignore", "!\n")
    with pytest.raises(CommandError, match=r"job/\.gitignore cannot be read: Invalid git pattern"):
        uploads.folder_files(tmp_path / "job")


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none/new\.yaml cannot be written: No such file or directory"):
        config._write(b"recipe: script\n", tmp_path / "none/new.yaml")


def test_a_script_brings_the_modules_that_it_imports_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "job/train.py", "import json, helper\nfrom nets.tcn import TCN\n")
    write(tmp_path / "job/helper.py", "import deeper\n")
    write(tmp_path / "job/deeper.py", "import helper\n")
    write(tmp_path / "job/nets/tcn.py", "from . import blocks\n")
    write(tmp_path / "job/nets/blocks.py", "")
    write(tmp_path / "job/nets/__pycache__/blocks.pyc", "")
    write(tmp_path / "job/unrelated.py", "")
    write(tmp_path / "job/secret.env", "")
    document = {"recipe": "script", "parameters": {"path": "job/train.py", "args": ["--x"]}}
    prepared = prepare(document, tmp_path)
    assert prepared.config["parameters"] == {"path": "train.py", "args": ["--x"]}
    places = {upload.place for upload in prepared.uploads}
    assert places == {"train.py", "helper.py", "deeper.py", "nets/tcn.py", "nets/blocks.py"}


def test_a_folder_goes_along_without_caches_and_version_control(tmp_path: Path) -> None:
    for name in (
        "main.py",
        "a/b.txt",
        ".git/config",
        "__pycache__/x.pyc",
        ".venv/bin/python",
        ".trainwright/api-key",
    ):
        write(tmp_path / "job" / name, "x")
    prepared = prepare({"recipe": "script", "parameters": {"path": "job"}}, tmp_path)
    assert prepared.config["parameters"]["path"] == "main.py"
    assert {upload.place for upload in prepared.uploads} == {"main.py", "a/b.txt"}


def test_data_goes_along_under_its_name_and_absolute_or_remote_data_stays(tmp_path: Path) -> None:
    write(tmp_path / "tables/sales.csv", "a,b\n")
    prepared = prepare({"recipe": "forecast", "data": {"path": "tables/sales.csv", "time": "a"}}, tmp_path)
    assert prepared.config["data"] == {"path": "data/sales.csv", "time": "a"}
    assert [upload.place for upload in prepared.uploads] == ["data/sales.csv"]
    for path in (str(tmp_path / "tables/sales.csv"), "s3://bucket/sales.csv"):
        prepared = prepare({"recipe": "forecast", "data": {"path": path}}, tmp_path)
        assert prepared.config["data"]["path"] == path
        assert prepared.uploads == []


def test_the_limits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data.bin", "x" * 2000)
    document = {"recipe": "forecast", "data": {"path": "data.bin"}}
    monkeypatch.setattr(uploads, "MAX_FILE", 1024)
    with pytest.raises(CommandError, match=r"2\.0 KiB, more than the 1\.0 KiB that one file .* absolute path"):
        prepare(document, tmp_path)
    monkeypatch.setattr(uploads, "MAX_FILE", 4096)
    monkeypatch.setattr(uploads, "MAX_TOTAL", 1024)
    with pytest.raises(CommandError, match=r"2\.0 KiB together, more than the 1\.0 KiB"):
        prepare(document, tmp_path)


def test_a_missing_script_or_data_is_named_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"the script train\.py does not exist"):
        prepare({"recipe": "script", "parameters": {"path": "train.py"}}, tmp_path)
    with pytest.raises(CommandError, match=r"the data no\.csv does not exist"):
        prepare({"recipe": "forecast", "data": {"path": "no.csv"}}, tmp_path)


def test_what_is_no_mapping_is_left_for_the_platform_to_judge(tmp_path: Path) -> None:
    document = {"recipe": "script", "parameters": ["path"], "data": "x"}
    assert prepare(document, tmp_path).config == document


def test_a_folder_leaves_behind_what_git_ignores(tmp_path: Path) -> None:
    for name in (
        "train.py",
        "a.log",
        "keep.log",
        "out/x.bin",
        "src/a.py",
        "src/b.tmp",
        "src/deep/b.tmp",
        "src/c.log",
    ):
        write(tmp_path / "job" / name, "x")
    write(tmp_path / "job/.gitignore", "*.log\n!keep.log\n/out/\n# a comment\n")
    write(tmp_path / "job/src/.gitignore", "/b.tmp\n!c.log\n")
    document = {"recipe": "script", "parameters": {"path": "job/train.py"}, "code": {"path": "job"}}
    prepared = prepare(document, tmp_path)
    assert "code" not in prepared.config
    assert prepared.config["parameters"]["path"] == "train.py"
    places = {upload.place for upload in prepared.uploads}
    assert places == {
        "train.py",
        "keep.log",
        "src/a.py",
        "src/deep/b.tmp",
        "src/c.log",
        ".gitignore",
        "src/.gitignore",
    }


@pytest.mark.parametrize(
    ("code", "path", "says"),
    [
        ({"path": "nowhere"}, "train.py", "is not a folder"),
        ({"pth": "."}, "train.py", "code names one folder"),
        ({"path": "job"}, "other.py", "does not exist"),
        ({"path": "job"}, "outside.py", r"does not lie in the folder .* that `code` names"),
        ({"path": "job"}, "job/left.py", r"is left out by a \.gitignore"),
    ],
)
def test_a_code_folder_that_does_not_do_is_told(tmp_path: Path, code: object, path: str, says: str) -> None:
    write(tmp_path / "job/left.py", "")
    write(tmp_path / "job/.gitignore", "left.py\n")
    write(tmp_path / "outside.py", "")
    with pytest.raises(CommandError, match=says):
        prepare({"recipe": "script", "parameters": {"path": path}, "code": code}, tmp_path)


def test_the_largest_files_are_listed_when_there_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        write(tmp_path / f"job/{number}.bin", "x" * (number * 100))
    write(tmp_path / "job/train.py", "")
    monkeypatch.setattr(uploads, "MAX_TOTAL", 1024)
    with pytest.raises(CommandError, match=r"the largest: 7\.bin 700 B, 6\.bin 600 B, 5\.bin .*\.gitignore"):
        prepare({"recipe": "script", "parameters": {"path": "job/train.py"}, "code": "job"}, tmp_path)


def test_assignments_are_read_as_yaml_reads_values() -> None:
    from trainwright.cli.values import patch_of, values_of

    assignments = ["parameters.lr=1e-3", "parameters.ids=[a, 2]", "labels.team=", "name=b c", "priority=3"]
    assert patch_of(assignments) == {
        "parameters": {"lr": 0.001, "ids": ["a", 2]},
        "labels": {"team": None},
        "name": "b c",
        "priority": 3,
    }
    assert values_of(["a.b=true"]) == {"a.b": True}
    for wrong in ("lr", "=1", "a..b=1", "x=[1"):
        with pytest.raises(CommandError):
            values_of([wrong])
