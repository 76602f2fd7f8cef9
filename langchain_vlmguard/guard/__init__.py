"""The guard, written once: what is checked, in which order, and by whom."""
