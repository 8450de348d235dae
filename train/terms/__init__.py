"""Loss terms: one file a family, each a pure function of logits and what is known."""
