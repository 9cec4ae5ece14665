"""Pure decisions: what is observed -> gates, failure -> plan and status. No I/O, no clock, no Kopf."""
