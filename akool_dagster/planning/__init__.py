"""Which partitions to land now: facts in, requests and sentences out."""
