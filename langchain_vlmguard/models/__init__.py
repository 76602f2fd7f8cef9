"""The local chat model."""
