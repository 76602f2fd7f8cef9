"""Doors to the guard: a graph, a node, a chat model. None of them decides anything."""
