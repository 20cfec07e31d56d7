"""The gRPC interfaces that Headgate's parts and tests speak, with code generated from them (`make proto`)."""
