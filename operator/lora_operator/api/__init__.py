"""The custom resources: typed frozen values, conditions, reasons, and the CRDs generated from them."""
