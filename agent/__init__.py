"""Headgate's sidecar: the gate at the head of an inference queue."""

__version__ = "0.1.0"
