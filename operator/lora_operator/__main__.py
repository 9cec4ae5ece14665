"""`python -m lora_operator`: settings, logging, kopf.run."""

from __future__ import annotations

import logging
import sys

import kopf
from pydantic import ValidationError

from lora_operator.handlers import register
from lora_operator.settings import PREFIX, settings_from


def main() -> None:
    """Run the operator until it is asked to stop."""
    try:
        settings = settings_from()
    except ValidationError as problem:
        for error in problem.errors():
            print(f"{PREFIX}{str(error['loc'][0]).upper()}: {error['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger("lora_operator").setLevel(settings.log_level)
    # Kopf logs every raw event at DEBUG and every handler at INFO. The operator logs one line per reconcile instead.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    registry = kopf.OperatorRegistry()
    register(registry, settings)
    kopf.run(registry=registry, clusterwide=settings.scope.clusterwide, namespaces=settings.scope.only)


if __name__ == "__main__":
    main()
