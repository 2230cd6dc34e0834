"""A deployment whose processes can be killed, fail or be overtaken at any effect, in simulated time."""
