"""The videos: when to download, how a file is checked and kept, and what the ledger is told."""
