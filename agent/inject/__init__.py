"""The injector: a pure patch of pods (`patch/`) and the admission webhook that applies it."""
