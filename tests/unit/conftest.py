"""How hypothesis runs the unit tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# What is tested is what code does, never how fast: other work on the machine fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("untimed")
