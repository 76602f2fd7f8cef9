"""Steering inside vLLM's workers: what a request asks for, the edit in the graph, the stamp, and the plugin."""
