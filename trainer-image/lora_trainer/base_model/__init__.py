"""The base model as its files describe it, before anything is loaded."""
