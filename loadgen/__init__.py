"""Headgate's load generator: V2 inference load with latency counted from the intended send time.

It never imports `agent`: a parser shared with the proxy would hide the proxy's own bugs.
"""
