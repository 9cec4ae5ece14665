"""What of generated answers is judged: their tokens, and which of them count in the mean reward."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.evaluation.answers import until_end
from lora_trainer.evaluation.rewards import mean_reward

TOKENS = st.lists(st.integers(0, 9), max_size=12)


@given(TOKENS, st.sets(st.integers(0, 9), max_size=3))
def test_an_answer_ends_with_its_first_end_token(ids: list[int], ends: set[int]) -> None:
    answered = until_end(ids, ends)
    assert answered == ids[: len(answered)]
    assert not ends.intersection(answered[:-1])
    assert answered == ids or answered[-1] in ends


REWARDS = st.lists(st.none() | st.floats(-1000, 1000), max_size=12)


@given(REWARDS)
def test_the_mean_is_of_the_answers_to_which_a_reward_applies(rewards: list[float | None]) -> None:
    mean, given = mean_reward(rewards), [reward for reward in rewards if reward is not None]
    if mean is None:
        assert not given
    else:
        assert math.isclose(mean * len(given), math.fsum(given), abs_tol=1e-6)
