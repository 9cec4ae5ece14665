"""The custom resources: typed frozen values, conditions and reasons."""
