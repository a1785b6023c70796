# The server (default) and the trainer (--target trainer), each alone with the libraries that it needs: no shell, no package
# manager, user 65532, nothing to write to. deploy/image/README.md says how it is built, run and checked.
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${RUST_IMAGE} AS toolchain
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# cpu or cuda.
ARG ACCELERATOR=cpu
# Of the cards that a CUDA build is for, without the point.
ARG CUDA_COMPUTE_CAP=90
COPY deploy/cuda/toolchain /usr/local/bin/cuda-toolchain
# Every shell from here on reads this file. Debian keeps only the newest patch of a stable version, so that a pinned one soon
# cannot be built.
ENV BASH_ENV=/etc/build-environment
# hadolint ignore=DL3008
RUN case "$ACCELERATOR" in \
        cpu) echo 'export FEATURES=serve,train' > /tmp/environment ;; \
        cuda) apt-get update && apt-get install --yes --no-install-recommends python3-pip \
            && rm -rf /var/lib/apt/lists/* \
            && { cuda-toolchain /opt/cuda; echo 'export FEATURES=serve,train,cuda'; } > /tmp/environment ;; \
        *) echo "ACCELERATOR is cpu or cuda, not $ACCELERATOR" >&2; exit 1 ;; \
    esac \
    && mv /tmp/environment "$BASH_ENV"

# Dependencies are compiled around empty sources: a layer that only the manifests change.
FROM toolchain AS dependencies
# Names of functions in a backtrace come from symbols; line tables would be seven times the program.
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_TERM_COLOR=never
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src/bin tests \
    && touch src/lib.rs tests/main.rs \
    && for main in build.rs src/bin/server.rs src/bin/trainer.rs; do echo 'fn main() {}' > "$main"; done \
    && cargo build --release --locked --bins --no-default-features --features "$FEATURES"

FROM dependencies AS compiled
COPY . .
# The copies may be older than what the empty sources left, and then cargo would keep the empty programs.
RUN touch build.rs src/lib.rs src/bin/*.rs \
    && cargo build --release --locked --bins --no-default-features --features "$FEATURES" \
    && mkdir -p /out/lib \
    && cp target/release/newshound-server target/release/newshound-trainer /out/ \
    && for name in cublas cublasLt curand cudart; do \
           find /opt -path "*/cu13/lib/lib$name.so.*" -exec cp {} /out/lib/ \; ; \
       done

# Programs that are there already take this stage's place: --build-context binaries=DIR.
FROM scratch AS binaries
COPY --from=compiled /out/ /

FROM ${DEBIAN_IMAGE} AS layer
COPY deploy/image/root /usr/local/bin/lay-root
COPY LICENSE LICENSE-APACHE LICENSE-MIT /licenses/

# One stage for each program: whoever builds one image lays one root, and CUDA's libraries are most of a gigabyte in each.
FROM layer AS server-root
RUN --mount=type=bind,from=binaries,target=/binaries lay-root /binaries/newshound-server /binaries/lib /laid

FROM layer AS trainer-root
RUN --mount=type=bind,from=binaries,target=/binaries lay-root /binaries/newshound-trainer /binaries/lib /laid

FROM scratch AS program
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532

FROM program AS trainer
LABEL org.opencontainers.image.title="newshound-trainer" \
      org.opencontainers.image.description="Makes the bundle that newshound-server answers with"
COPY --from=trainer-root /laid/ /
# Runs and their worlds are written here; mount a volume that 65532 may write.
WORKDIR /data
ENTRYPOINT ["/usr/local/bin/newshound-trainer"]

FROM program AS server
LABEL org.opencontainers.image.title="newshound-server" \
      org.opencontainers.image.description="Turns a reader's cross-domain signals into news search queries, over gRPC"
COPY --from=server-root /laid/ /
# Inside a container nobody else reaches 127.0.0.1. Without a command this is the demo.
ENV NEWSHOUND__GRPC_ADDR=0.0.0.0:50051 NEWSHOUND__HTTP_ADDR=0.0.0.0:9464
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/newshound-server", "probe", "--timeout-ms", "2500"]
ENTRYPOINT ["/usr/local/bin/newshound-server"]
