# wsseg as an image: wsseg-infer, and `wsseg listen`. The model is mounted, never baked in; nothing is
# fetched or sent at run time: wsseg itself stops what its libraries would report.
#
#   docker build -t wsseg .
#   docker build -t wsseg:gpu --build-arg DEVICE=cuda \
#     --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 .
#   mkdir -p out
#   docker run --rm --network none --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#     -v "$PWD/model:/model:ro" -v "$PWD/scans:/scans:ro" -v "$PWD/out:/out" \
#     wsseg /scans --report /out/ratios.csv
#
# Archives among the scans are unpacked in /tmp: for large ones, mount a folder on disk there.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/wsseg
COPY . /source
RUN /opt/wsseg/bin/pip install --no-cache-dir --constraint /source/constraints.txt \
    "/source[codecs,openvino,node,dicomweb,follow,sign]"

FROM ${BASE}
ARG DEVICE=cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home wsseg
COPY --from=build /opt/wsseg /opt/wsseg
USER 10001
# With DEVICE=cuda a missing GPU is an error, not a silent run on the CPU.
ENV PATH=/opt/wsseg/bin:$PATH WSSEG_MODEL=/model WSSEG_DEVICE=${DEVICE}
WORKDIR /tmp
ENTRYPOINT ["wsseg-infer"]
CMD ["--help"]
