"""The admin port: what operators, kubelets and Prometheus ask. aiohttp, for here nothing is counted in microseconds."""
