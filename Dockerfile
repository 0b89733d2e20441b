# hvsa-agent beside a CVAT server; docs/deploy.md says how it is run.
#
#   docker build -t hvsa-agent .                            with CUDA; runs without a GPU, too
#   docker build -t hvsa-agent --build-arg DEVICE=cpu .     without CUDA, a few gigabytes smaller

# the tag, and the multi-platform index that stood under it
ARG PYTHON=python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

# the largest layer by far, and the one that changes least
FROM ${PYTHON} AS dependencies
ARG DEVICE=cuda
# pip stays outside of what it installs
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_PYTHON=/opt/hvsa/bin/python
WORKDIR /src
COPY deploy/requirements.txt ./
# Each file is compared with its hash, except the two of PyTorch without CUDA: those come from
# PyTorch's own index, under other hashes. torch and torchvision must be built for one another:
# torchvision beside another build of torch does not even import, which shows here.
RUN python -m venv --without-pip /opt/hvsa \
 && case "${DEVICE}" in \
      cuda) ;; \
      cpu) grep -oE '^torch(vision)?==[^ ]+' requirements.txt > torch.txt \
           && pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
                --requirement torch.txt \
           && awk '/^[^ ]/ {kept = !/^(cuda|nvidia|torch|triton)/} kept' requirements.txt > kept.txt \
           && mv kept.txt requirements.txt ;; \
      *) echo "DEVICE is '${DEVICE}'; it must be cuda or cpu" >&2; exit 1 ;; \
    esac \
 && pip install --no-deps --require-hashes --requirement requirements.txt \
 && /opt/hvsa/bin/python -c "import torch, torchvision; \
assert (torch.version.cuda is None) == ('${DEVICE}' == 'cpu'), torch.__version__"

FROM dependencies AS build
COPY deploy/build-requirements.txt ./
RUN pip install --no-deps --require-hashes --requirement build-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY hvsa_cvat hvsa_cvat
RUN pip wheel --no-build-isolation --no-deps --wheel-dir /wheel .

FROM ${PYTHON}
LABEL org.opencontainers.image.title="hvsa-agent" \
      org.opencontainers.image.description="Dense video segmentation from few clicks, inside CVAT" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 hvsa \
 && useradd --uid 10001 --gid hvsa --no-create-home --home-dir /tmp --shell /usr/sbin/nologin hvsa \
 && install --directory --owner hvsa --group hvsa --mode 0770 /var/lib/hvsa
COPY --from=dependencies /opt/hvsa /opt/hvsa
RUN --mount=from=build,source=/wheel,target=/wheel \
    pip --python /opt/hvsa/bin/python install --no-cache-dir --no-deps /wheel/*.whl \
 && pip --python /opt/hvsa/bin/python check
# weights that are fetched once (RAFT, where there is a GPU) stay with the workspace; the root file
# system may be read-only
ENV PATH=/opt/hvsa/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/var/lib/hvsa/torch \
    HVSA_WORKSPACE=/var/lib/hvsa \
    HVSA_HEARTBEAT=/tmp/hvsa-heartbeat
# by number, so that Kubernetes can tell that it is not root
USER 10001:10001
WORKDIR /var/lib/hvsa
VOLUME /var/lib/hvsa
STOPSIGNAL SIGTERM
# A waiting agent touches the file every minute, a working one with every frame and training step;
# half an hour without either is no work. /healthz of --metrics tells the same, where a port is open.
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "find \"$HVSA_HEARTBEAT\" -mmin -30 | grep -q ."]
ENTRYPOINT ["hvsa-agent"]
CMD ["sync", "--watch"]
