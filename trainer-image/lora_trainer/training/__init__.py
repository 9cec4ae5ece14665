"""The training loop and what happens at its steps."""
