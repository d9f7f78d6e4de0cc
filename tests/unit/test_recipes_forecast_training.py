"""The forecaster learns the same thing twice, sees nothing that it is judged by, and comes back from its files."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import trainwright
from tests.forecast_kit import CPU, WALMART, Watched, configured, trained, walmart
from trainwright.recipes import get
from trainwright.recipes.forecast import bundle
from trainwright.recipes.forecast.config import ForecastConfig
from trainwright.recipes.forecast.data import Panel
from trainwright.recipes.forecast.evaluation import evaluated, scores, seasonal_naive
from trainwright.recipes.forecast.training import Fit, origins_of, train
from trainwright.recipes.forecast.windows import Windows
from trainwright.training.loop import Diverged, generator_of


def fits_of(folder: Path, config: ForecastConfig, panel: Panel) -> list[Fit]:
    """Train in a folder below this one and return what was trained."""
    with Watched(folder / str(len(list(folder.iterdir())))) as run:
        fits = train(run, config, panel, CPU)
    assert fits is not None
    return fits.all


def weights(folder: Path, config: ForecastConfig, panel: Panel) -> list[dict[str, torch.Tensor]]:
    return [dict(fit.network.state_dict()) for fit in fits_of(folder, config, panel)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    config = configured()
    panel = walmart(config)
    first, second = (weights(tmp_path, config, panel) for _ in range(2))
    torch.rand(17)  # what happened before must not matter
    third = weights(tmp_path, config, panel)
    assert all(same(a, b) and same(a, c) for a, b, c in zip(first, second, third, strict=True))
    other = weights(tmp_path, config.model_copy(update={"seed": 2}), panel)
    assert not same(first[-1], other[-1])


def test_the_evaluated_fit_never_sees_what_it_is_judged_by(tmp_path: Path) -> None:
    """Replace everything after the origin by nonsense: the forecast from there does not change by a bit."""
    config = configured(origins=2)
    panel = walmart(config)
    origin = origins_of(config, panel)[0]
    changed = panel.values.copy()
    changed[:, origin:] = 1e9
    twin = Panel(panel.series, changed, panel.grid, panel.season_length, panel.season_note, panel.summary)
    fits, others = (fits_of(tmp_path, config, one) for one in (panel, twin))
    assert np.array_equal(fits[0].forecast(), others[0].forecast())
    assert not np.array_equal(fits[-1].forecast(), others[-1].forecast())


def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path) -> None:
    config = configured(dropout=0.0)
    panel = walmart(config)
    whole, parts = (
        weights(tmp_path, config.model_copy(update={"micro_batch": size}), panel)[-1] for size in (None, 3)
    )
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_sampled_windows_are_padded_and_masked_at_both_ends() -> None:
    values = np.arange(1.0, 41.0)[None, :]
    values[0, 20] = np.nan
    windows = Windows(values, 30, input_size=12, horizon=6, season_length=8, device=CPU)
    batch = windows.sample(500, generator_of(1, 1))
    raw = batch.target * torch.tensor(windows.std) + torch.tensor(windows.mean)
    seen = raw[batch.target_seen.bool()]
    assert seen.max() <= 30  # nothing from the end on
    assert not torch.isclose(seen, torch.tensor(21.0, dtype=seen.dtype)).any()  # the gap is never a target
    assert (batch.target_seen.sum(1) < 6).any()  # reaches over the end
    assert (batch.seen.sum(1) < 12).any()  # reaches over the beginning
    assert (batch.target_seen.sum(1) >= 1).all() or (batch.target_seen.sum(1) == 0).sum() < 25
    again = windows.sample(500, generator_of(1, 1))
    assert torch.equal(batch.window, again.window)
    assert not torch.equal(batch.window, windows.sample(500, generator_of(1, 2)).window)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    config = configured(max_steps=20)
    panel = walmart(config)
    values = panel.values.copy()
    values[:, 50] = np.inf  # the data's own checks refuse it; here it stands for any overflow
    broken = Panel(panel.series, values, panel.grid, panel.season_length, panel.season_note, panel.summary)
    with pytest.raises(Diverged, match="at step 1; try a lower learning_rate"), np.errstate(all="ignore"):
        fits_of(tmp_path, config, broken)


def test_the_baseline_on_the_shipped_data_is_the_known_one() -> None:
    """Seasonal naive over four cutoffs of eight weeks: MASE 1.032, WAPE .084 (measured apart from this code)."""
    config = configured(horizon=8, origins=4)
    panel = walmart(config)
    baseline = [
        evaluated(panel, origin, seasonal_naive(panel.values[:, :origin], 8, 52))
        for origin in origins_of(config, panel)
    ]
    found = scores(panel, baseline)
    assert (round(found["mase"], 3), round(found["wape"], 4)) == (1.032, 0.0836)
    assert (found["naive_mase"], found["naive_wape"]) == (found["mase"], found["wape"])
    assert [one["origin"] for one in found["origins"]] == ["2012-03-16", "2012-05-11", "2012-07-06", "2012-08-31"]


def test_the_baseline_repeats_seasons_and_bridges_gaps() -> None:
    known = np.array([[1.0, 2.0, 3.0, 4.0, np.nan, 6.0]])
    assert seasonal_naive(known, 5, 3).tolist() == [[4.0, 4.0, 6.0, 4.0, 4.0]]
    assert seasonal_naive(known, 2, 1).tolist() == [[6.0, 6.0]]
    assert seasonal_naive(np.array([[np.nan, 5.0]]), 2, 2).tolist() == [[5.0, 5.0]]


def test_scores_bear_zeros_constants_and_missing_periods() -> None:
    config = configured(horizon=2, origins=2)
    panel = walmart(config)
    values = panel.values.copy()
    values[0], values[1, -4:] = 0.0, np.nan
    odd = Panel(panel.series, values, panel.grid, panel.season_length, panel.season_note, panel.summary)
    some = [evaluated(odd, origin, np.ones((7, 2))) for origin in origins_of(config, odd)]
    found = scores(odd, some)
    assert found["series"][0]["mase"] is None
    assert found["series"][0]["wape"] is None
    assert found["series"][1]["points"] == 0
    assert np.isfinite([found["mase"], found["wape"]]).all()
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("mode", ["product", "store", "global"])
def test_end_to_end_through_the_local_run(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mode trains through the run context, and its files rebuild the forecaster."""
    monkeypatch.chdir(tmp_path)
    config = configured(mode=mode, max_steps=4, origins=2)
    with trainwright.init(name="forecast") as run:
        summary = get("forecast")().train(run, config, WALMART)
    names = {path.name for path in run.output.iterdir()}
    assert names >= {
        "model.safetensors",
        "model.json",
        "metrics.json",
        "forecasts.csv",
        "future.csv",
        "series.json",
    }
    history = json.loads((run.output / "history.json").read_text())["metrics"]
    assert [step for step, _ in history["loss"]] == [1, 2, 3, 4]
    assert summary["identity"].startswith(mode)
    assert summary["metrics"]["baseline"]["name"] == "seasonal naive"

    forecaster = bundle.load(run.output)
    with (run.output / "future.csv").open(newline="") as file:
        written = [(row["series"], float(row["forecast"])) for row in csv.DictReader(file)]
    predicted = [(name, value) for name, values in forecaster.predict().items() for value in values]
    assert [name for name, _ in predicted] == [name for name, _ in written]
    # One row at a time instead of all together: rounding of single precision is all that may differ.
    assert [value for _, value in predicted] == pytest.approx([value for _, value in written], rel=1e-6)
    assert len(written) == len(forecaster.series) * config.horizon

    one = forecaster.series[0]
    longer = forecaster.predict({one: np.linspace(1e4, 2e4, 300).tolist()})
    assert longer.keys() == {one}
    with pytest.raises(KeyError, match="was not trained on"):
        forecaster.predict({"nobody": [1.0]})
    with pytest.raises(ValueError, match="holds no value"):
        forecaster.predict({one: [float("nan")]})


def test_it_beats_seasonal_naive_on_the_shipped_data(tmp_path: Path) -> None:
    config = ForecastConfig(mode="store", max_steps=120, origins=2, channels=16)
    summary = trained(Watched(tmp_path), config)
    found, baseline = summary["metrics"], summary["metrics"]["baseline"]
    assert found["mase"] < 0.95 * baseline["mase"]
    assert found["wape"] < baseline["wape"]


def test_a_series_that_never_changes_is_forecast_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "flat.csv"
    dates = pd.date_range("2020-01-01", periods=60, freq="D").strftime("%Y-%m-%d")
    pd.DataFrame({"when": dates, "sold": 5}).to_csv(path, index=False)
    data = {"path": str(path), "time": "when", "target": "sold"}
    run = Watched(tmp_path)
    summary = trained(run, configured(mode="global"), data)
    assert summary["metrics"]["baseline"]["wape"] == 0.0
    assert summary["metrics"]["mase"] is None
    assert [list(values) for values in bundle.load(run.output).predict().values()] == [
        pytest.approx([5.0] * 4, abs=0.5)
    ]
