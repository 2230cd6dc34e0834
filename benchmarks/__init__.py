"""How fast the package is, against baselines measured in the same run: ``make bench``. No tests: no time fails any."""
