"""The measurement behind docs/testbed_results.md: every arm and attack on testbeds of several architectures."""
