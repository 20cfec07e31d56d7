"""See `tritonmodels`."""

from tritonmodels import Batched as TritonPythonModel  # noqa: F401 - the name that Triton looks for
