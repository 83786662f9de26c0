# Three images from one file: `--target operator`, `serving` or `worker`. Every Python package is pinned by hash.
# BASE_IMAGE needs Python 3.11 with venv, and apt; the development cluster builds on a base that it makes itself.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev $(command -v /usr/bin/python3 >/dev/null && echo python3-dev) && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build
WORKDIR /src
COPY requirements/build.txt requirements/
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -q -r requirements/build.txt
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY crds/ecompile_crds crds/ecompile_crds
COPY operator/ecompile_operator operator/ecompile_operator
COPY operator/ecompile_kubectl operator/ecompile_kubectl
COPY workers/ecompile_workers workers/ecompile_workers
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -q -w /wheels .

FROM ${BASE_IMAGE} AS operator
COPY requirements/operator.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --require-hashes -q -r /tmp/requirements.txt
COPY --from=build /wheels /wheels
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps -q /wheels/*.whl && rm -rf /opt/venv/lib/python3*/site-packages/pip
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "ecompile_operator"]

FROM ${BASE_IMAGE} AS serving
COPY requirements/serving.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --require-hashes -q -r /tmp/requirements.txt
COPY --from=build /wheels /wheels
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps -q /wheels/*.whl && rm -rf /opt/venv/lib/python3*/site-packages/pip
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "ecompile_workers.serving"]

FROM ${BASE_IMAGE} AS worker
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/workers.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --require-hashes -q -r /tmp/requirements.txt
COPY --from=build /wheels /wheels
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps -q /wheels/*.whl && rm -rf /opt/venv/lib/python3*/site-packages/pip
# Only training examples need torch (several GB): build with --build-arg WITH_TORCH=1 to have it in the image.
ARG WITH_TORCH=0
COPY requirements/torch.txt /tmp/torch.txt
RUN if [ "$WITH_TORCH" = 1 ]; then python3 -m venv --upgrade-deps /tmp/pip \
 && /tmp/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes -q -r /tmp/torch.txt; rm -rf /tmp/pip; fi
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "ecompile_workers.jobs"]
