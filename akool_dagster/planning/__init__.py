"""Which partitions to land now, and the sentences that explain it. Pure: facts in, decisions out."""
