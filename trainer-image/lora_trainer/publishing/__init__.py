"""Publishes and verifies a trained adapter."""
