"""What computes a model: one interface, an adapter for each runtime, the choice between them."""
