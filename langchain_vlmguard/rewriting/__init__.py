"""Reasoning-driven prompt rewriting."""
