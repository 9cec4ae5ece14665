"""Which metrics and labels PromQL expressions name."""

from __future__ import annotations

import pytest

from tests.promql import Selector, groupings, selectors

CASES = [
    ("up", {"up": ()}, set()),
    ("sum by (a, b) (rate(x_total[5m])) > 0", {"x_total": ()}, {"a", "b"}),
    ('rate(x{a="1",b=~"2|3"}[$__rate_interval]) / (y > 0)', {"x": (("a", "1"), ("b", "2|3")), "y": ()}, set()),
    ('histogram_quantile(0.9, sum by (le) (rate(z_bucket{n=~"$n"}[6h])))', {"z_bucket": (("n", "$n"),)}, {"le"}),
    ("(sum(x) or vector(0)) < 1 and on (a) y offset 5m", {"x": (), "y": ()}, set()),
]


@pytest.mark.parametrize(("expression", "metrics", "labels"), CASES)
def test_names_are_found(expression: str, metrics: dict[str, tuple[tuple[str, str], ...]], labels: set[str]) -> None:
    expected = {Selector(metric=name, matchers=matchers) for name, matchers in metrics.items()}
    assert set(selectors(expression)) == expected
    assert groupings(expression) == labels


@pytest.mark.parametrize("expression", ["sum(", "rate(x)", "sum by (a (x)", "x +"])
def test_what_is_no_promql_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        selectors(expression)
