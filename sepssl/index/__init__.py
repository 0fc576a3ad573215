"""Rows of embeddings: how they are stored, and search among them."""
