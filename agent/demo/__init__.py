"""`headgate demo`: a synthetic predictor, the agent in front of it, and a load that rises past capacity."""
