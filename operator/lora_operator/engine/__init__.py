"""The asyncio tasks around the plan: cache, queue, reconciler, workers, progress poller, resync, leader election."""
