"""Safety directions and what is done with them at inference."""
