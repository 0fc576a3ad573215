"""Whole jobs over many files, made of the other rooms."""
