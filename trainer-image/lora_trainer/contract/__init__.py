"""What operator and trainer agree on: run file, exit codes and outcome, progress, manifests, bucket layout.

Imports pydantic and the standard library only, so that both sides can import it. Nothing here does I/O.
"""
