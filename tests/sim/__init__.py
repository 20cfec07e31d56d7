"""Admission in virtual time: the agent's own policies, unchanged, in front of simulated predictors."""
