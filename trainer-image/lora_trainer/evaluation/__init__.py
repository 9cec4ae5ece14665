"""Base and adapter, measured on rows that were not trained on."""
