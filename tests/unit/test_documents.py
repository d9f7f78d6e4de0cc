"""Documents as text and as data: the laws of reading, writing, editing, comparing and merging."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.documents.changes import applied, content_hash, differences, dotted, merged, pointer, same
from trainwright.documents.editing import edited
from trainwright.documents.reading import read, written

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "yes",
        "no",
        "null",
        "~",
        "1e-3",
        "0x1F",
        "1:30",
        "2024-01-31",
        "- a",
        "# b",
        "a: b",
        "<<",
        "=",
        " x ",
        ".5",
        "+1",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=5)


@given(DOCUMENTS, st.sampled_from(["yaml", "json"]))
def test_what_is_written_reads_as_the_same(document: dict[str, Any], format: str) -> None:
    assert same(read(written(document, format), format), document)


@given(VALUES, VALUES)
def test_a_document_with_its_differences_is_the_other_one(one: Any, other: Any) -> None:
    changes = differences(one, other)
    assert same(applied(one, changes), other)
    assert (changes == []) == same(one, other)
    assert len({change.path for change in changes}) == len(changes)


@given(DOCUMENTS, DOCUMENTS)
@settings(max_examples=60)
def test_an_edited_text_reads_as_what_was_asked_for(one: dict[str, Any], other: dict[str, Any]) -> None:
    text = f"# kept\n{written(one, 'yaml')}"
    assert same(read(edited(text, "yaml", other), "yaml"), other)
    assert edited(text, "yaml", one) == text


@given(DOCUMENTS, DOCUMENTS)
def test_merge_patches_are_what_rfc_7396_says(document: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merged(document, patch)
    assert same(merged(once, patch), once), "a second time changes nothing"
    assert same(merged(document, {}), document)
    for key, value in patch.items():
        if value is None:
            assert key not in once
        elif not isinstance(value, dict):
            assert same(once[key], value)


@given(DOCUMENTS)
def test_the_hash_is_the_contents_whatever_the_order(document: dict[str, Any]) -> None:
    assert content_hash(dict(reversed(document.items()))) == content_hash(document)
    assert content_hash({**document, "more": 1}) != content_hash({**document, "more": 1.0})


def test_numbers_that_are_written_differently_differ() -> None:
    assert [one.path for one in differences({"a": 1, "b": True}, {"a": 1.0, "b": 1})] == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("path", "people", "programs"),
    [
        (("files", 0, "path"), "files.0.path", "/files/0/path"),
        (("a.b", "c d", ""), '"a.b"."c d".""', "/a.b/c d/"),
        (("a/b", "~"), "a/b.~", "/a~1b/~0"),
    ],
)
def test_paths_are_for_people_and_for_programs(path: tuple[Any, ...], people: str, programs: str) -> None:
    assert (dotted(path), pointer(path)) == (people, programs)


def test_comments_stay_where_the_key_does() -> None:
    text = "# top\na: 1  # one\nlist:\n- x\n- y  # why\nb:\n  c: old   # deep\n  d: 2\nend: yes\n"
    new = {"a": 1, "list": ["x", "y"], "b": {"c": "yes", "e": 1e-05}, "end": True}
    changed = edited(text, "yaml", new)
    assert changed == ('# top\na: 1  # one\nlist:\n- x\n- y  # why\nb:\n  c: "yes" # deep\n  e: 1e-05\nend: yes\n')


@given(DOCUMENTS, st.data())
@settings(max_examples=60)
def test_values_are_written_over_where_they_stand(document: dict[str, Any], data: st.DataObject) -> None:
    text = f"# kept\n{written({'a': 1, **document, 'b': {'c': [2, 'x']}}, 'yaml')}"
    new = read(text, "yaml")
    new["b"]["c"][data.draw(st.integers(0, 1))] = data.draw(SCALARS)
    changed = edited(text, "yaml", new)
    assert same(read(changed, "yaml"), new)
    assert changed.startswith("# kept\n")


@pytest.mark.parametrize("odd", ["\x7f", "\x85 ", "\u2028", "\ufeff", "\uffff"])
def test_a_value_that_yaml_cannot_show_is_escaped(odd: str) -> None:
    changed = edited("# kept\na: x\n", "yaml", {"a": odd})
    assert read(changed, "yaml") == {"a": odd}
    assert changed.startswith("# kept\n")


def test_a_date_that_there_is_not_is_text_and_written_anew() -> None:
    """One library reads it as the text that it is, the one that keeps comments as a date."""
    changed = edited("# gone\nsince: 2024-02-30\n", "yaml", {"since": "2024-02-30", "n": 1})
    assert read(changed, "yaml") == {"since": "2024-02-30", "n": 1}


def test_what_cannot_be_edited_is_written_anew() -> None:
    text = "a: &x {b: 1}  # shared\nc: *x\n"
    assert read(edited(text, "yaml", {"a": {"b": 2}, "c": {"b": 1}}), "yaml") == {"a": {"b": 2}, "c": {"b": 1}}
