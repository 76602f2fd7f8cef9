"""The measurement behind docs/evaluation.md: every arm and attack on testbeds of several architectures."""
