"""The guard, written once, and its faces for graphs and chat models."""
