"""What the guard says: records, hazards, policy, limits."""
