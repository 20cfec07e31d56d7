"""Attacks at the wire, by class: what may reach the predictor, what the client must get, and what it may cost."""
