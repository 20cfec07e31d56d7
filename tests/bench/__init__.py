"""The agent measured beside HAProxy and Envoy: `make bench`, or `python -m tests.bench --help`."""
