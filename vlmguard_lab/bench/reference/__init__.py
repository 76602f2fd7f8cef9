"""The first measurement of the reference model: what it refuses, what pictures do to that, and what defences mend."""
