"""See `tritonmodels`."""

from tritonmodels import Double as TritonPythonModel  # noqa: F401 - the name that Triton looks for
