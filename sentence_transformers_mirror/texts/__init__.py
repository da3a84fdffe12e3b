"""Texts: one way to read them, for every door, with an account of what was left out."""
