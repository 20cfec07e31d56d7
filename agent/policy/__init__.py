"""Decisions: what a request is, who may run and when. Pure: `now` is an argument, in seconds of a monotonic clock."""
