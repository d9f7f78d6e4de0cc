"""Periods: how far apart the rows are, and what lies after the last one.

Not here: reading files.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from trainwright.recipes.errors import DataError

SEASONS = {"hour": 24, "day": 7, "week": 52, "month": 12, "quarter": 4, "year": 1}
"""Periods of a season by frequency: a day of hours, a week of days, a year of everything longer."""

_CODES = {"year": "Y", "quarter": "Q", "month": "M", "week": "W-SUN", "day": "D", "hour": "h"}
_LEAST_FILLED = 0.5
_LEAST_SIDE_BY_SIDE = 0.8


@dataclass(frozen=True, slots=True)
class Grid:
    """Regular periods that cover all rows; `position` of each row among them."""

    frequency: str
    periods: pd.PeriodIndex
    position: np.ndarray
    from_end: bool
    """Whether dates lie at a constant distance from a period's end (month ends) and not from its start."""
    offset: pd.Timedelta

    def dates(self, beyond: int = 0) -> list[str]:
        """Return an ISO date for each period and for `beyond` more."""
        last = self.periods[-1]
        more = pd.period_range(last + 1, periods=beyond, freq=self.periods.freq) if beyond else self.periods[:0]
        whole = pd.PeriodIndex(self.periods.append(more))
        anchors = whole.end_time.floor("s") if self.from_end else whole.start_time
        shown = anchors - self.offset if self.from_end else anchors + self.offset
        pattern = "%Y-%m-%dT%H:%M" if self.frequency == "hour" else "%Y-%m-%d"
        return [str(text) for text in shown.strftime(pattern)]


def parse_dates(column: "pd.Series[str]") -> pd.DatetimeIndex:
    """Return a column as UTC-naive timestamps.

    Raises:
        DataError: A value is not a date; the message names the row.
    """
    parsed = _parse(column, dayfirst=False)
    if parsed.isna().any():
        other = _parse(column, dayfirst=True)
        parsed = parsed if other.isna().any() else other
    if parsed.isna().any():
        row = int(np.flatnonzero(parsed.isna())[0])
        form = f" in the form of the first row ({str(column.iloc[0])[:80]!r})" if row else ""
        raise DataError(
            f"column {column.name!r}, row {row + 1}: {str(column.iloc[row])[:80]!r} is not a date{form};"
            " ISO dates such as 2024-01-31 are always understood"
        )
    return pd.DatetimeIndex(parsed)


def _parse(column: "pd.Series[str]", *, dayfirst: bool) -> "pd.Series[pd.Timestamp]":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns about guesses; a wrong one shows as a missing value
        parsed = pd.to_datetime(column, errors="coerce", dayfirst=dayfirst, utc=True)
    return parsed.dt.tz_localize(None)


def grid_of(dates: pd.DatetimeIndex, frequency: str | None, column: str) -> Grid:
    """Return the periods that the dates lie in; the coarsest in which no two dates meet when none is given.

    Raises:
        DataError: The dates are too irregular to see a frequency.
    """
    found = frequency or _inferred(dates, column)
    ordinals = dates.to_period(_CODES[found])
    periods = pd.period_range(ordinals.min(), ordinals.max(), freq=_CODES[found])
    from_end, offset = _offset(dates, ordinals)
    position = ordinals.asi8 - periods.asi8[0]
    return Grid(found, periods, np.asarray(position, dtype=np.int64), from_end, offset)


def _inferred(dates: pd.DatetimeIndex, column: str) -> str:
    distinct = dates.unique()
    for name, code in _CODES.items():
        periods = distinct.to_period(code)
        if periods.nunique() == len(distinct):
            if _is_regular(np.sort(periods.asi8)):
                return name
            break
    raise DataError(
        f"the dates in {column!r} follow no regular distance ({len(distinct)} different ones from"
        f" {distinct.min()} to {distinct.max()}); set the parameter `frequency`, e.g. week, to sum rows up"
    )


def _is_regular(periods: np.ndarray) -> bool:
    """Return whether most periods have a row, or rows stand side by side with few, perhaps long, gaps."""
    if len(periods) < 3:
        return True
    filled = len(periods) / (int(periods[-1] - periods[0]) + 1)
    side_by_side = float(np.mean(np.diff(periods) == 1))
    return filled >= _LEAST_FILLED or side_by_side >= _LEAST_SIDE_BY_SIDE


def _offset(dates: pd.DatetimeIndex, periods: pd.PeriodIndex) -> tuple[bool, pd.Timedelta]:
    """Return where in its period a date usually lies, counted from whichever side varies less."""
    after = (dates - periods.start_time).value_counts()
    before = (periods.end_time.floor("s") - dates).value_counts()
    if int(before.iloc[0]) > int(after.iloc[0]):
        return True, pd.Timedelta(before.index[0])
    return False, pd.Timedelta(after.index[0])
