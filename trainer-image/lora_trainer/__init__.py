"""The trainer: prepares, trains and verifies one LoRA fine-tune."""

__version__ = "0.1.0"
"""Version of the whole distribution; pyproject.toml reads it from here."""
