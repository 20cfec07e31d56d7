"""See `tritonmodels`."""

from tritonmodels import Stream as TritonPythonModel  # noqa: F401 - the name that Triton looks for
