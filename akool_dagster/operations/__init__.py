"""Looking after a deployment's ledger: adopting tables, checking, pruning and forgetting."""
