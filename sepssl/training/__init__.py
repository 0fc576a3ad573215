"""How training is run."""
