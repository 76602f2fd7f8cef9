"""Request sets: the testbed's families, and readers of published sets by the layout their authors gave them."""
