"""Weak marks simulated from full masks, as a reader would draw them."""
