"""Whether a provider can notice the guard: one conversation through each provider's own package, with the guard and without."""
