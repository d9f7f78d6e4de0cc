"""Model versions of forecasters count by what was trained: mode, scope, model."""

from typing import Any

import pytest

from trainwright.recipes.forecast.identity import identity, training_description

BASE: dict[str, Any] = {"mode": "store", "model": "tcn", "aggregation": "sum", "horizon": 8}
ONE_STORE: dict[str, Any] = {"stores": ["1"], "products": ["1", "2"], "frequency": "week"}
TWO_STORES: dict[str, Any] = {"stores": ["1", "2"], "products": ["1", "2"], "frequency": "week"}


@pytest.mark.parametrize(
    ("parameters", "summary", "expected"),
    [
        ({}, ONE_STORE, "store/S001_all/tcn"),
        ({}, TWO_STORES, "store/all_all/tcn"),
        ({"store_ids": ["2"]}, TWO_STORES, "store/S002_all/tcn"),
        ({"store_ids": ["1"], "product_ids": ["2", "1"]}, ONE_STORE, "store/S001_specific_P001_P002/tcn"),
        ({"mode": "product"}, TWO_STORES, "product/all_all/tcn"),
        (
            {"mode": "product", "product_ids": ["7"], "store_ids": ["10", "9"]},
            {},
            "product/P007_specific_S009_S010/tcn",
        ),
        ({"mode": "global"}, ONE_STORE, "global/all/sum/tcn"),
        ({"mode": "global", "aggregation": "mean", "store_ids": ["1"]}, ONE_STORE, "global/S001/mean/tcn"),
    ],
)
def test_identity(parameters: dict[str, Any], summary: dict[str, Any], expected: str) -> None:
    assert identity({**BASE, **parameters}, summary) == expected


def test_identifiers_that_a_path_cannot_hold_stay_apart() -> None:
    hostile = ["../../etc", "a/b", "a b", "a?b", "", "日本", "é"]
    found = {identity({**BASE, "store_ids": [text]}, {}) for text in hostile}
    assert len(found) == len(hostile)
    assert all(".." not in one and one.count("/") == 2 and one.isascii() for one in found)


def test_many_identifiers_are_told_apart_by_a_short_hash() -> None:
    many = [str(number) for number in range(1, 40)]
    first, second = (identity({**BASE, "product_ids": ids, "store_ids": ["1"]}, {}) for ids in (many, many[:-1]))
    assert first != second
    assert len(first) < 80
    shuffled = identity({**BASE, "product_ids": many[::-1], "store_ids": ["1"]}, {})
    assert shuffled == first


def test_the_description_says_it_in_words() -> None:
    assert (
        training_description({**BASE, "product_ids": ["1", "2"]}, ONE_STORE)
        == "TCN: 8 weeks ahead for each product (products 1, 2) in store 1"
    )
