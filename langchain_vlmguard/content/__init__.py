"""What the guard reads; fails closed on what it cannot read."""
