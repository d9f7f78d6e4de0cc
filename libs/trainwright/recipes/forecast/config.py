"""The parameters of the recipe `forecast`, and what its data section says. No torch, no pandas."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainwright.recipes.table import HOT, RecipeConfig


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=200)]
"""An identifier as it stands in the data; numbers are taken as text."""

Column = Annotated[str, Field(min_length=1, max_length=500)]


class ForecastData(BaseModel):
    """Where the rows are and what their columns mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, max_length=4096, description="A CSV or Parquet file.")
    time: Column = Field(description="Column with dates or timestamps.")
    target: Column = Field(description="Column with the numbers to forecast.")
    product: Column | None = Field(None, description="Column with product identifiers.")
    store: Column | None = Field(None, description="Column with store identifiers.")


class ForecastConfig(RecipeConfig):
    """What is forecast, how far, and how the network is trained."""

    model: Literal["tcn"] = Field("tcn", description="The network: `tcn`, a temporal convolutional network.")
    mode: Literal["product", "store", "global"] = Field(
        "global",
        description="`product`: one series a product, summed over stores. `store`: one series for each product"
        " within each store. `global`: one series, everything aggregated.",
    )
    product_ids: list[Id] | None = Field(
        None, min_length=1, max_length=10_000, description="Products to use; all when left out."
    )
    store_ids: list[Id] | None = Field(
        None, min_length=1, max_length=10_000, description="Stores to use; all when left out."
    )
    aggregation: Literal["sum", "mean", "median", "weighted"] = Field(
        "sum",
        description="How mode `global` joins series: `weighted` weighs each by its share of all sales before the"
        " first evaluation.",
    )
    frequency: Literal["hour", "day", "week", "month", "quarter", "year"] | None = Field(
        None,
        description="Sum the rows into periods of this length, periods without rows count 0. When left out, the"
        " distance of the rows decides.",
    )
    season_length: int | None = Field(
        None, ge=1, le=1000, description="Periods of a season; inferred when left out (52 for weeks)."
    )
    horizon: int = Field(8, ge=1, le=365, description="Periods to forecast.")
    input_size: int | None = Field(
        None,
        ge=2,
        le=2000,
        description="Periods that the network sees; a season and 1.5 horizons when left out.",
    )
    max_steps: int = Field(300, ge=1, le=1_000_000, description="Optimiser steps.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Windows in a step.")
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Windows computed at a time; gradients are added up. All when left out. Halved by itself when"
        " memory is missing.",
    )
    learning_rate: float = Field(
        4e-3,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Highest learning rate; it falls as a half cosine.",
        json_schema_extra=HOT,
    )
    weight_decay: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="AdamW's weight decay.")
    channels: int = Field(32, ge=4, le=1024, description="Channels of each convolution.")
    dropout: float = Field(0.1, ge=0, lt=1, allow_inf_nan=False, description="Probability of dropping a value.")
    origins: int = Field(
        4, ge=1, le=52, description="Evaluations: the last `origins` × `horizon` periods, one forecast each."
    )
    checkpoint_seconds: float = Field(
        30.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds between checkpoints. None of them is called the best: held_out_wape is shown, nothing"
        " is chosen by it.",
    )
    checkpoint_every: int | None = Field(
        None, ge=1, le=1_000_000, description="Steps between checkpoints, beside the time."
    )
    seed: int = Field(1, ge=0, le=2**31 - 1, description="Same seed, same model.")
    threads: int = Field(1, ge=1, le=64, description="CPU threads; another number gives other rounding.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: a GPU if the run was given one.")

    @model_validator(mode="after")
    def _fits_together(self) -> "ForecastConfig":
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(f"micro_batch ({self.micro_batch}) is larger than batch_size ({self.batch_size})")
        return self

    def problems_with(self, data: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what does not fit between these parameters and a data section."""
        needs = {"product": ["product"], "store": ["store"], "global": []}[self.mode]
        needs += ["product"] if self.product_ids else []
        needs += ["store"] if self.store_ids else []
        missing = [column for column in dict.fromkeys(needs) if not data.get(column)]
        why = f"mode {self.mode!r}" if missing and missing[0] == self.mode else "product_ids or store_ids"
        return [(f"data.{column}", f"{why} needs the name of the {column} column") for column in missing]
