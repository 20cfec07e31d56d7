"""The agent in front of real predictors: what a client gets through it equals what it gets from them directly."""
