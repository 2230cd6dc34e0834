"""Looking after a deployment's ledger: checking, restoring, adopting and pruning it."""
