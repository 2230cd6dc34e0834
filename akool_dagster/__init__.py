"""Akool Image to Video results in Dagster."""
