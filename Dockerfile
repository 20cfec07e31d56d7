# One image for every sub-command of headgate and for headgate-load.
#   docker build -t headgate . && docker run --read-only -p 8480:8480 -p 8481:8481 headgate serve --route 8480=http://HOST:8080
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY .ci/lock.txt .ci/lock.txt
COPY agent agent
COPY loadgen loadgen
COPY protos protos
# The virtual environment is the only thing that moves on; pip compiles the byte code, which a read-only root cannot.
RUN python -m venv /opt/headgate \
 && /opt/headgate/bin/pip install --no-cache-dir --disable-pip-version-check --constraint .ci/lock.txt '.[demo]' \
 && /opt/headgate/bin/pip uninstall --yes setuptools pip

FROM python:${PYTHON}-slim
COPY --from=build /opt/headgate /opt/headgate
ENV PATH=/opt/headgate/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# Numeric, so that runAsNonRoot can be checked; nothing is written, so any other UID works too.
USER 65532:65532
EXPOSE 8480 8481 8482 9443
ENTRYPOINT ["headgate"]
CMD ["--help"]
