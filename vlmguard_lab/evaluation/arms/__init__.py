"""Arms: the guard and its published peers, each a defence around the same target."""
