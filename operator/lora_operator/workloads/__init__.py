"""Pure builders of a run's children: the ConfigMap with its run file, and the Jobs. No I/O, no decisions."""
