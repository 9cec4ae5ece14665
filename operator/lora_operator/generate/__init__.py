"""Writes the manifests that follow from the API: the CRDs and the admission policy. No operator imports it."""
