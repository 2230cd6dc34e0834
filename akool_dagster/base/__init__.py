"""What every other part stands on: no I/O."""
