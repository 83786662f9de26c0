# Three images from one file: `--target operator`, `serving` or `worker`. Every Python package is pinned by hash.
# BASE_IMAGE needs Python 3.11 with venv, and apt; the development cluster builds on a base that it makes itself.
# Each image runs as user 65532 on a read-only root file system; only /tmp needs to be a volume.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS compiler
# Python's headers come with the base where Python is its own (/usr/local); Debian has them in a package.
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends gcc libc6-dev $(test ! -x /usr/bin/python3 || echo python3-dev) \
 && rm -rf /var/lib/apt/lists/*

FROM compiler AS wheel
RUN python3 -m venv /opt/build
WORKDIR /src
COPY requirements/build.txt requirements/
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -q -r requirements/build.txt
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY crds/ecompile_crds crds/ecompile_crds
COPY operator/ecompile_operator operator/ecompile_operator
COPY workers/ecompile_workers workers/ecompile_workers
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -q -w /wheels .

# pip stays in a virtual environment of its own; the ones that are shipped have none.
FROM ${BASE_IMAGE} AS pip
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
ENV PIP="/opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir -q"

FROM pip AS operator-environment
COPY requirements/operator.txt /tmp/requirements.txt
RUN ${PIP} --require-hashes -r /tmp/requirements.txt
COPY --from=wheel /wheels /wheels
RUN ${PIP} --no-deps /wheels/*.whl

FROM pip AS serving-environment
COPY requirements/serving.txt /tmp/requirements.txt
RUN ${PIP} --require-hashes -r /tmp/requirements.txt
COPY --from=wheel /wheels /wheels
RUN ${PIP} --no-deps /wheels/*.whl

FROM pip AS worker-environment
# torch (several GB) is needed by training examples only.
ARG WITH_TORCH=1
COPY requirements/workers.txt requirements/torch.txt /tmp/
RUN if [ "${WITH_TORCH}" = 1 ]; then list=torch; else list=workers; fi; ${PIP} --require-hashes -r /tmp/${list}.txt
COPY --from=wheel /wheels /wheels
RUN ${PIP} --no-deps /wheels/*.whl

FROM ${BASE_IMAGE} AS operator
COPY --from=operator-environment /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
ENTRYPOINT ["python", "-m", "ecompile_operator"]

FROM ${BASE_IMAGE} AS serving
COPY --from=serving-environment /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
ENTRYPOINT ["python", "-m", "ecompile_workers.serving"]

# Distillation compiles: the worker keeps gcc.
FROM ${BASE_IMAGE} AS worker
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=worker-environment /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
ENTRYPOINT ["python", "-m", "ecompile_workers.jobs"]
