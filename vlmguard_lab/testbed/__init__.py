"""The testbed: a tiny vision-language model trained from scratch in minutes, and the world it knows."""
