"""Reduces the micro-batch after the accelerator ran out of memory; the rows per optimizer step stay the same."""

from __future__ import annotations


def shrunk_batch(micro_batch: int, accumulation: int, *, times: int) -> tuple[int, int]:
    """Micro-batch and accumulation after `times` halvings; their product never changes.

    Where half is no divisor of the effective batch, the next smaller divisor is taken. Never less than one row.
    """
    effective = micro_batch * accumulation
    limit = max(micro_batch >> times, 1)
    smaller = next(size for size in range(limit, 0, -1) if effective % size == 0)
    return smaller, effective // smaller


def halvings(micro_batch: int) -> int:
    """How often the micro-batch can be halved before it is one row."""
    return micro_batch.bit_length() - 1
