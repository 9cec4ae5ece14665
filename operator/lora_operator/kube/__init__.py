"""All requests to the API server."""
