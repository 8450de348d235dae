"""Accuracy on held-out images: every kind of supervision, same network, budget and folds."""
