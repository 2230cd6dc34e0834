"""What every room may use: no I/O."""
