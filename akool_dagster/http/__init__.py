"""The one bounded HTTP transport, under `api` and `videos`."""
