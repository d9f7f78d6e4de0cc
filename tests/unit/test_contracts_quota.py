"""What may be asked for of quotas and reservations: what cannot be meant, or kept, is refused by its own field."""

from typing import Any

import pytest
from pydantic import ValidationError

from trainwright.contracts.quota import Reserve, SetQuota

KEPT = {"cpu": 1, "strategy": "vision"}


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({**KEPT, "duration": "0"}, "duration"),
        ({**KEPT, "duration": "-1h"}, "duration"),
        ({**KEPT, "duration": "1h", "idle_after": 0}, "idle_after"),
        ({**KEPT, "duration": "1h", "cpu": -1}, "cpu"),
    ],
)
def test_a_reservation_that_would_be_none_names_the_field(wish: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Reserve(**wish)
    assert [one["loc"] for one in refused.value.errors()] == [(field,)]
    assert Reserve(**KEPT, duration="1h", idle_after="30m").idle_after == 1800


@pytest.mark.parametrize("amount", [-1, 2**63, 2**70])
def test_an_amount_that_no_store_can_keep_is_refused(amount: int) -> None:
    with pytest.raises(ValidationError) as refused:
        SetQuota(gpu_memory_mb=amount)
    assert [one["loc"] for one in refused.value.errors()] == [("gpu_memory_mb",)]
    assert SetQuota(gpu_memory_mb=10**9).gpu_memory_mb == 10**9
