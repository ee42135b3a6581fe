"""What a notebook shows and claims: figures, layer table, statistics, ledger."""
