"""Everything that is measured, behind one command line."""
