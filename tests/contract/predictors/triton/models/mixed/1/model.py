"""See `tritonmodels`."""

from tritonmodels import Mixed as TritonPythonModel  # noqa: F401 - the name that Triton looks for
