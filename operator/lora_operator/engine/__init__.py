"""The asyncio machine around the plan: cache, queue, reconciler, workers, progress poller, resync."""
