"""Which of an attempt's points count, as a function of what is known."""

from trainwright.storage.series import NOTHING, AttemptState, Fence, fence_of


def test_fences_are_a_function_of_what_is_known() -> None:
    def state(attempt: int, resume: int | None, since: int = 0) -> AttemptState:
        return AttemptState(attempt, since, resume)

    assert fence_of(1, {1: 0}, [state(1, 0)]) == Fence()
    assert fence_of(1, {1: 0}, [state(1, 0), state(2, None, since=9)]) == Fence(seq=9)
    assert fence_of(1, {1: 0}, [state(1, 0), state(2, 0)]) == Fence(step=NOTHING)
    assert fence_of(1, {1: 0, 2: 5}, [state(1, 0), state(2, 5)]) == Fence(step=4)
    assert fence_of(1, {1: 0, 2: 6}, [state(1, 0), state(2, 5)]) == Fence(step=5)
    assert fence_of(1, {1: 0}, [state(1, 0), state(2, None, since=3), state(3, 7)]) == Fence(step=7)
    assert fence_of(2, {1: 0}, [state(1, 0), state(2, 5)]) == Fence()
