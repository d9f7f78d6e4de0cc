"""From a file to series: what is summed, what is refused, and how each refusal says what would be right."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trainwright.recipes.errors import DataError
from trainwright.recipes.forecast.config import ForecastConfig, ForecastData
from trainwright.recipes.forecast.data import Panel, load_panel

ROWS = 30


def weekly(stores: int = 2, products: int = 2, rows: int = ROWS) -> pd.DataFrame:
    """Return sales that tell where they come from: 1000 × store + 100 × product + week."""
    return pd.DataFrame(
        [
            {"Date": date, "Sales": 1000 * store + 100 * product + week, "Dept": product, "Store": store}
            for week, date in enumerate(pd.date_range("2021-01-01", periods=rows, freq="7D").strftime("%Y-%m-%d"))
            for store in range(1, stores + 1)
            for product in range(1, products + 1)
        ]
    )


class Bench:
    """Writes a frame as CSV and loads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sales.csv"

    def load(
        self, frame: pd.DataFrame | str, columns: dict[str, str | None] | None = None, **config: Any
    ) -> Panel:
        if isinstance(frame, str):
            self.path.write_text(frame)
        else:
            frame.to_csv(self.path, index=False)
        named: dict[str, Any] = {"time": "Date", "target": "Sales", "product": "Dept", "store": "Store"}
        data = ForecastData.model_validate({"path": str(self.path), **named, **(columns or {})})
        return load_panel(
            data, ForecastConfig.model_validate({"mode": "store", "horizon": 2, "origins": 2, **config})
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_store_mode_keeps_each_product_within_each_store(bench: Bench) -> None:
    panel = bench.load(weekly())
    assert [one.name for one in panel.series] == [
        "store 1, product 1",
        "store 1, product 2",
        "store 2, product 1",
        "store 2, product 2",
    ]
    assert panel.values.shape == (4, ROWS)
    assert panel.values[3, 5] == 2205
    assert (panel.grid.frequency, panel.summary["first"]) == ("week", "2021-01-01")


def test_store_mode_without_products_has_one_series_a_store(bench: Bench) -> None:
    panel = bench.load(weekly(), {"product": None})
    assert [one.name for one in panel.series] == ["store 1", "store 2"]
    assert panel.values[0, 0] == 1100 + 1200


def test_product_mode_sums_over_the_chosen_stores(bench: Bench) -> None:
    panel = bench.load(weekly(3), mode="product", store_ids=[1, 3])
    assert [one.name for one in panel.series] == ["product 1", "product 2"]
    assert panel.values[0, 4] == 1104 + 3104
    assert panel.summary["stores"] == ["1", "3"]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("sum", 6600), ("mean", 1650), ("median", 1650), ("weighted", 1802)],
)
def test_global_mode_joins_everything(bench: Bench, aggregation: str, expected: float) -> None:
    panel = bench.load(weekly(), mode="global", aggregation=aggregation)
    assert panel.values.shape == (1, ROWS)
    assert panel.values[0, 0] == pytest.approx(expected, abs=1.5)


def test_weights_know_nothing_of_the_evaluated_periods(bench: Bench) -> None:
    frame, later = weekly(), weekly()
    later.loc[(later["Store"] == 2) & (later["Date"] >= "2021-07-16"), "Sales"] *= 1000
    before = bench.load(frame, mode="global", aggregation="weighted").values[0, : ROWS - 4]
    assert (bench.load(later, mode="global", aggregation="weighted").values[0, : ROWS - 4] == before).all()


def test_rows_of_one_period_are_summed_and_gaps_stay_gaps(bench: Bench) -> None:
    frame = pd.concat([weekly(1, 1), weekly(1, 1).iloc[[3]]]).drop(index=7)
    panel = bench.load(frame)
    assert panel.values[0, 3] == 2 * 1103
    assert np.isnan(panel.values[0, 7])
    assert panel.summary["missing"] == 1


def test_irregular_orders_need_a_frequency_and_then_count_zero_where_nothing_was_sold(bench: Bench) -> None:
    days = np.cumsum([0] + [1, 9, 2, 30, 4, 11, 3, 8, 25, 6] * 10)
    dates = (pd.Timestamp("2020-01-01") + pd.to_timedelta(days, unit="D")).strftime("%d/%m/%Y")
    frame = pd.DataFrame({"Date": dates, "Sales": 1.0})
    only_time: dict[str, str | None] = {"product": None, "store": None}
    with pytest.raises(DataError, match="set the parameter `frequency`"):
        bench.load(frame, only_time, mode="global")
    panel = bench.load(frame, only_time, mode="global", frequency="week")
    assert panel.values.sum() == len(frame)
    assert (panel.values == 0).any()
    assert not np.isnan(panel.values).any()


@pytest.mark.parametrize(
    ("code", "frequency", "season"),
    [
        ("D", "day", 7),
        ("7D", "week", 52),
        ("MS", "month", 12),
        ("ME", "month", 12),
        ("QS", "quarter", 4),
        ("h", "hour", 24),
    ],
)
def test_the_frequency_is_seen_and_future_dates_follow_it(
    bench: Bench, code: str, frequency: str, season: int
) -> None:
    dates = pd.date_range("2019-01-31", periods=80, freq=code)
    frame = pd.DataFrame({"Date": dates.astype(str), "Sales": range(80)})
    panel = bench.load(frame, {"product": None, "store": None}, mode="global")
    assert (panel.grid.frequency, panel.season_length) == (frequency, season)
    expected = pd.date_range(dates[0], periods=83, freq=code).strftime("%Y-%m-%d")
    assert [text[:10] for text in panel.grid.dates(beyond=3)] == list(expected)


def test_a_long_gap_does_not_hide_the_frequency(bench: Bench) -> None:
    dates = [
        *pd.date_range("2015-01-01", periods=60, freq="h"),
        *pd.date_range("2016-01-01", periods=60, freq="h"),
    ]
    frame = pd.DataFrame({"Date": [str(date) for date in dates], "Sales": range(120)})
    panel = bench.load(frame, {"product": None, "store": None}, mode="global")
    assert panel.grid.frequency == "hour"
    assert (~np.isnan(panel.values)).sum() == 120


def test_a_short_history_falls_back_to_the_last_value_and_says_so(bench: Bench) -> None:
    panel = bench.load(weekly())
    assert panel.season_length == 1
    assert "a season of 52" in panel.season_note
    assert bench.load(weekly(), season_length=4).season_length == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(columns={"Sales": "Sale"}), r"no column 'Sales'; did you mean 'Sale'\?"),
        (lambda f: f.iloc[:0], "a header and no rows"),
        (
            lambda f: f.assign(Sales=f["Sales"].astype(object).where(f.index != 4, "n/a")),
            "'Sales', row 5: .*'n/a'",
        ),
        (lambda f: f.assign(Sales=f["Sales"].where(f.index != 6)), "'Sales', row 7: the target is empty"),
        (lambda f: f.assign(Sales=f["Sales"].astype(float).where(f.index != 1, np.inf)), "row 2: .*not a finite"),
        (
            lambda f: f.assign(Sales=f["Sales"].astype(float).where(f.index != 3, -1e300)),
            r"row 4: -1e\+300 is beyond ±1e\+30.*larger unit",
        ),
        (lambda f: f.assign(Date=f["Date"].where(f.index != 2, "soon")), "'Date', row 3: 'soon' is not a date"),
        (lambda f: f.assign(Dept=f["Dept"].where(f.index != 8)), "'Dept', row 9: the identifier is empty"),
        (lambda f: f.assign(Date="1500000000"), r"row 1: '1500000000' is not a date; ISO dates"),
        (
            lambda f: f[f["Date"] < "2021-02-20"],
            r"'store 1, product 1' has 4 points before its first evaluation.*\(4 of 4 series have too few\)",
        ),
    ],
)
def test_what_does_not_do_is_named(bench: Bench, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bench.load(change(weekly()))


def test_an_unknown_product_names_the_nearest(bench: Bench) -> None:
    frame = weekly().astype({"Dept": str}).replace({"Dept": {"1": "Toys", "2": "Tools"}})
    with pytest.raises(DataError, match=r"no product 'Tois'; did you mean 'Toys'\?"):
        bench.load(frame, product_ids=["Tois"])


@pytest.mark.parametrize("text", ["", "\0\0\0", 'Date,Sales\n"open'])
def test_a_file_that_is_no_table_is_refused_in_one_sentence(bench: Bench, text: str) -> None:
    with pytest.raises(DataError, match=r"sales\.csv"):
        bench.load(text)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_seen_in_the_header(bench: Bench, mark: str) -> None:
    assert len(bench.load(weekly().to_csv(index=False, sep=mark)).series) == 4


def test_a_decimal_comma_is_refused_with_what_to_write(bench: Bench) -> None:
    text = weekly().astype({"Sales": float}).to_csv(index=False, sep=";", decimal=",")
    with pytest.raises(DataError, match=r"'Sales', row 1: .*'1100,0'.*write plain numbers such as 1234\.5"):
        bench.load(text)


def test_a_column_that_stands_twice_is_refused(bench: Bench) -> None:
    text = weekly().assign(Other=1).rename(columns={"Other": "Sales"}).to_csv(index=False)
    with pytest.raises(DataError, match="2 columns 'Sales'; rename all but one"):
        bench.load(text)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_says_what_to_save_it_as(bench: Bench, encoding: str) -> None:
    bench.path.write_bytes(
        weekly().astype({"Dept": str}).replace("1", "Café").to_csv(index=False).encode(encoding)
    )
    data = ForecastData(path=str(bench.path), time="Date", target="Sales")
    with pytest.raises(DataError, match=r"sales\.csv is not text in UTF-8.*save it as CSV in UTF-8"):
        load_panel(data, ForecastConfig())


def test_parquet_without_the_package_that_reads_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    path = bench.path.with_suffix(".parquet")
    path.write_bytes(b"PAR1")
    with pytest.raises(
        DataError, match=r"sales\.parquet: reading Parquet needs the package pyarrow on the worker"
    ):
        load_panel(ForecastData(path=str(path), time="Date", target="Sales"), ForecastConfig())


def test_a_file_that_is_not_there(bench: Bench) -> None:
    data = ForecastData(path=str(bench.path), time="Date", target="Sales")
    with pytest.raises(DataError, match="there is no data file"):
        load_panel(data, ForecastConfig())
