"""Attacks that know the guard: on the pixels of a picture, and on the words of a prompt."""
