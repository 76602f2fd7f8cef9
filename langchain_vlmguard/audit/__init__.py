"""A log of what a guard decided, that shows when a row was taken out, and what thresholds it suggests."""
