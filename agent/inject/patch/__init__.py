"""Pure: a pod and the annotations on it to a JSON Patch that puts the agent in front of its predictor."""
