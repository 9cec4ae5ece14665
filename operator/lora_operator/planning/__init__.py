"""Pure decisions: from the observed state to a plan and a status. No I/O, no clock, no Kopf."""
