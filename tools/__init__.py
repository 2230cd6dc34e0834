"""Tools for the development of this package; not a part of it."""
