"""Everything that may be done to a simulated world, and how often in comparison."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.faults import api_faults, cluster_faults, operator_faults, tenant_faults
from tests.faults.world import World

Mischief = Callable[[World, Random], bool]

COUNTED_WHEN_THEY_HIT = (
    api_faults.refuse,
    api_faults.answer_oddly,
    operator_faults.kill_at_a_request,
    operator_faults.lose_the_lease,
)
CATALOGUE: tuple[tuple[int, Mischief], ...] = (
    (40, api_faults.refuse),
    (6, api_faults.answer_oddly),
    (4, api_faults.outage),
    (6, api_faults.partition),
    (6, api_faults.cut_watches),
    (6, api_faults.watch_gap),
    (6, api_faults.late_events),
    (4, api_faults.dead_watch),
    (4, api_faults.watch_error),
    (16, operator_faults.kill_at_a_request),
    (6, operator_faults.kill),
    (5, operator_faults.stop),
    (6, operator_faults.skew),
    (4, operator_faults.lose_the_lease),
    (4, cluster_faults.collectors_away),
    (4, cluster_faults.controllers_away),
    (6, cluster_faults.drain),
    (4, cluster_faults.pressure),
    (4, cluster_faults.preempt),
    (4, cluster_faults.lose_node),
    (2, cluster_faults.lose_node_for_good),
    (2, cluster_faults.evict_in_a_row),
    (2, cluster_faults.inject_sidecars),
    (8, cluster_faults.foreign_pod),
    (4, cluster_faults.lose_pod),
    (6, cluster_faults.sweep),
    (6, cluster_faults.delete_pod),
    (6, cluster_faults.delete_job),
    (6, cluster_faults.touch),
    (6, tenant_faults.forge_config_map),
    (3, tenant_faults.take_config_map_name),
    (3, tenant_faults.delete_config_map),
    (4, tenant_faults.change_class),
)
