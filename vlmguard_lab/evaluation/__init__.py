"""Evaluation: suites, judges, defences (arms) and attacks, run by inspect_ai. A user of the package, not a part of it."""
