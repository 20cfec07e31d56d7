"""Coverage-guided fuzzing of everything that reads bytes from somebody else: `python -m tests.fuzz`."""
