"""Rows to series: read a file, choose, sum up, put on a regular grid. Everything wrong is a `DataError`.

Not here: windows, scaling, anything of torch.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainwright.contracts.base import nearest
from trainwright.recipes.errors import DataError
from trainwright.recipes.forecast.calendar import SEASONS, Grid, grid_of, parse_dates
from trainwright.recipes.forecast.config import ForecastConfig, ForecastData

Floats = npt.NDArray[np.float64]
LEAST_TRAINING = 8
"""Points before the first evaluation without which nothing can be learnt."""

LARGEST = 1e30
"""Size of a target value."""

MOST_HEADER = 1_000_000
"""Characters of a header line."""

MOST_CELLS = 50_000_000
"""Series times periods that are held in memory."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one series is about."""

    store: str | None
    product: str | None

    @property
    def name(self) -> str:
        """Return its name for people."""
        parts = [f"{noun} {value}" for noun, value in (("store", self.store), ("product", self.product)) if value]
        return ", ".join(parts) or "all"


@dataclass(frozen=True, slots=True)
class Panel:
    """Series on one grid: `values` is (series, periods), NaN where there was no row."""

    series: tuple[Series, ...]
    values: Floats
    grid: Grid
    season_length: int
    season_note: str
    summary: dict[str, Any]

    @property
    def length(self) -> int:
        """Return how many periods there are."""
        return int(self.values.shape[1])


def load_panel(data: ForecastData, config: ForecastConfig) -> Panel:
    """Read a file and return the series that the mode asks for.

    Mode `product` sums each product over the chosen stores; `store` keeps each product within each store (each
    store, if there is no product column); `global` joins everything by the `aggregation`. Several rows of one
    series and period are summed.

    Raises:
        DataError: The file, a column, a value, or the amount of data does not do.
    """
    path = Path(data.path)
    frame = _chosen(_typed(_read(path, data), data), config)
    grid = grid_of(pd.DatetimeIndex(frame["time"]), config.frequency, data.time)
    first_evaluated = len(grid.periods) - config.origins * config.horizon
    series, values = _series(frame, grid, config, first_evaluated)
    _check_amount(series, values, config)
    length, note = _season(grid.frequency, first_evaluated, config)
    summary = {
        "path": path.name,
        "sha256": _sha256(path),
        "rows": len(frame),
        "stores": _distinct(frame, "store"),
        "products": _distinct(frame, "product"),
        "series": len(series),
        "periods": len(grid.periods),
        "frequency": grid.frequency,
        "first": grid.dates()[0],
        "last": grid.dates()[-1],
        "missing": int(np.isnan(values).sum()),
    }
    return Panel(tuple(series), values, grid, length, note, summary)


def _read(path: Path, data: ForecastData) -> pd.DataFrame:
    """Return the columns named, as they stand in the file: text from CSV, types from Parquet."""
    wanted = [column for column in (data.time, data.target, data.product, data.store) if column]
    if not path.is_file():
        raise DataError(f"there is no data file {data.path}")
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        if parquet:
            frame = pd.read_parquet(path)
        else:
            separator = _separator(path, wanted)
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ImportError:
        raise DataError(f"{path.name}: reading Parquet needs the package pyarrow on the worker") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not text in UTF-8 ({error}); save it as CSV in UTF-8") from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        kind = "Parquet" if parquet else "CSV with a header line"
        raise DataError(f"{path.name} cannot be read as {kind}: {str(error).strip()[:300]}") from None
    frame.columns = [str(column).strip() for column in frame.columns]
    for column in wanted:
        if column not in frame.columns:
            known = ", ".join(repr(each[:40]) for each in frame.columns[:20])
            hint = nearest(column, frame.columns)
            raise DataError(f"{path.name} has no column {column!r}{hint} (there are: {known})")
    if frame.empty:
        raise DataError(f"{path.name} has a header and no rows")
    return frame[list(dict.fromkeys(wanted))]


def _separator(path: Path, wanted: Sequence[str]) -> str:
    """Return what stands between a CSV's columns: of the usual ones, that by which most of `wanted` are found.

    Raises:
        DataError: A column stands twice in the header.
    """
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return ","  # perhaps compressed: pandas sees to it
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline(MOST_HEADER)
    found = {mark: [name.strip() for name in next(csv.reader([header], delimiter=mark), [])] for mark in ",;\t|"}
    best = max(found, key=lambda mark: len(set(wanted) & set(found[mark])))
    for column in wanted:
        if found[best].count(column) > 1:
            raise DataError(f"{path.name} has {found[best].count(column)} columns {column!r}; rename all but one")
    return best


def _typed(frame: pd.DataFrame, data: ForecastData) -> pd.DataFrame:
    """Return columns time, target, product, store with their types."""
    typed = pd.DataFrame({"time": parse_dates(frame[data.time]), "target": _numbers(frame[data.target])})
    for role, column in (("product", data.product), ("store", data.store)):
        if column:
            typed[role] = _identifiers(frame[column])
    return typed


def _numbers(column: "pd.Series[Any]") -> Floats:
    numbers = np.array(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    large = np.flatnonzero(np.isfinite(numbers) & (np.abs(numbers) > LARGEST))
    if len(large):
        row = int(large[0])
        raise DataError(
            f"column {column.name!r}, row {row + 1}: {str(column.iloc[row])[:80]} is beyond ±{LARGEST:g}, where"
            " sums and squares lose their meaning; write the column in a larger unit"
        )
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        value, row = column.iloc[int(bad[0])], int(bad[0]) + 1
        empty = value is None or str(value).strip() == "" or value != value
        what = "is empty" if empty else f"holds {str(value)[:80]!r}, which is not a finite number"
        what += "; leave such rows out" if empty else "; write plain numbers such as 1234.5"
        more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
        raise DataError(f"column {column.name!r}, row {row}: the target {what}{more}")
    return numbers


def _identifiers(column: "pd.Series[Any]") -> "pd.Series[str]":
    if pd.api.types.is_float_dtype(column) and not column.isna().any() and (column % 1 == 0).all():
        column = column.astype("int64")
    text = column.astype(str).str.strip()
    empty = np.flatnonzero(column.isna() | (text == ""))
    if len(empty):
        raise DataError(f"column {column.name!r}, row {int(empty[0]) + 1}: the identifier is empty")
    return text.reset_index(drop=True)


def _chosen(frame: pd.DataFrame, config: ForecastConfig) -> pd.DataFrame:
    for role, wanted in (("product", config.product_ids), ("store", config.store_ids)):
        if wanted:
            known = _distinct(frame, role)
            for identifier in wanted:
                if identifier not in known:
                    hint = nearest(identifier, known) or f" (there are: {', '.join(known[:20])})"
                    raise DataError(f"{role}_ids: the data has no {role} {identifier!r}{hint}")
            frame = frame[frame[role].isin(wanted)]
    if frame.empty:
        raise DataError("no row holds both one of the store_ids and one of the product_ids")
    return frame.reset_index(drop=True)


def _series(
    frame: pd.DataFrame, grid: Grid, config: ForecastConfig, first_evaluated: int
) -> tuple[list[Series], Floats]:
    """Return the series of the mode and their values."""
    roles = [role for role in ("store", "product") if role in frame.columns]
    keys = {"product": ["product"], "store": roles, "global": roles}[config.mode]
    cells = frame.assign(position=grid.position)
    table = cells.groupby([*keys, "position"], sort=True)["target"].sum()
    many = int(cells.groupby(keys).ngroups) if keys else 1
    if many * len(grid.periods) > MOST_CELLS:
        size = f"{many} series of {len(grid.periods)} periods by the {grid.frequency}"
        raise DataError(
            f"{size} are more than fit; choose some by product_ids and store_ids, or a longer frequency"
        )
    wide = table.unstack("position") if keys else table.to_frame().T
    wide = wide.reindex(columns=range(len(grid.periods)))
    values = np.array(wide, dtype=np.float64)
    if config.frequency is not None:
        values = _zeros_after_start(values)
    names = [_as_series(keys, label) for label in wide.index] if keys else [Series(None, None)]
    order = sorted(range(len(names)), key=lambda n: (_rank(names[n].store), _rank(names[n].product)))
    names, values = [names[n] for n in order], values[order]
    if config.mode == "global":
        return [Series(None, None)], _joined(values, config.aggregation, first_evaluated)
    return names, values


def _as_series(keys: Sequence[str], label: Any) -> Series:
    found = dict(zip(keys, label if isinstance(label, tuple) else (label,), strict=True))
    return Series(found.get("store"), found.get("product"))


def _rank(identifier: str | None) -> tuple[int, int, str]:
    text = identifier or ""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _zeros_after_start(values: Floats) -> Floats:
    """Return values where a period without rows counts 0 once the series has begun."""
    begun = np.cumsum(~np.isnan(values), axis=1) > 0
    return np.where(begun & np.isnan(values), 0.0, values)


def _joined(values: Floats, aggregation: str, first_evaluated: int) -> Floats:
    """Return one series out of many; a period counts the series that have a value in it."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    if aggregation == "median":
        joined = np.array([np.median(v[t]) if t.any() else np.nan for v, t in zip(values.T, there.T, strict=True)])
        return joined[None, :]
    if aggregation == "weighted":  # from before the first evaluation only: later sales must not be known
        weights = np.abs(filled[:, : max(first_evaluated, 1)]).sum(axis=1, keepdims=True)
    else:
        weights = np.ones((len(values), 1))
    total = (filled * (1.0 if aggregation == "sum" else weights)).sum(axis=0)
    divisor = (there * weights).sum(axis=0) if aggregation != "sum" else there.any(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(divisor > 0, total / divisor, np.nan)[None, :]


def _check_amount(series: Sequence[Series], values: Floats, config: ForecastConfig) -> None:
    held_out = config.origins * config.horizon
    least = max(2 * config.horizon, LEAST_TRAINING)
    periods = values.shape[1]
    before = (~np.isnan(values[:, : max(periods - held_out, 0)])).sum(axis=1)
    short = np.flatnonzero(before < least)
    if len(short):
        first = int(short[0])
        others = f" ({len(short)} of {len(series)} series have too few)" if len(short) > 1 else ""
        raise DataError(
            f"the series {series[first].name!r} has {before[first]} points before its first evaluation, {least}"
            f" are needed{others}: of {periods} periods {config.origins} origins × {config.horizon} periods are"
            " held out; lower `origins` or `horizon`, or choose other series by product_ids and store_ids"
        )


def _season(frequency: str, first_evaluated: int, config: ForecastConfig) -> tuple[int, str]:
    """Return the season's length and how it was found; 1 when the history cannot show a season."""
    wanted = config.season_length or SEASONS[frequency]
    origin = "as asked" if config.season_length else f"usual for data by the {frequency}"
    least = wanted + config.horizon
    if first_evaluated < least:
        note = f"a season of {wanted}, {origin}, needs {least} periods before the first evaluation and there are"
        return 1, f"{note} {first_evaluated}: the baseline repeats the last value"
    return wanted, origin


def _distinct(frame: pd.DataFrame, role: str) -> list[str]:
    return sorted(frame[role].unique(), key=_rank) if role in frame.columns else []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
