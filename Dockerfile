# runsink's image: the program, the shared libraries it is linked with, CA certificates and nothing else. No shell, no package
# manager; runs as uid 65532 with a read-only root file system and without capabilities. scripts/image builds it.
#
#   BASE               Debian 13, where it is built and whose libraries it gets
#   LIBS3              OFF leaves libs3 out (then LICENSES=Apache-2.0)
#   SOURCE_DATE_EPOCH  time of every file, so that the same sources and the same base make the same image
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS build
COPY scripts/deps scripts/lib.sh /src/scripts/
RUN /src/scripts/deps --build
COPY . /src
ARG LIBS3=ON
ARG REVISION
RUN cmake -G Ninja -S /src -B /build -DCMAKE_INSTALL_PREFIX=/usr -DRUNSINK_TESTS=OFF -DRUNSINK_LIBS3=${LIBS3} \
        -DRUNSINK_COMMIT=${REVISION:-unknown} \
    && cmake --build /build \
    && DESTDIR=/installed cmake --install /build --strip
ARG SOURCE_DATE_EPOCH
RUN /src/scripts/closure /installed /image && chroot /image /usr/bin/runsink --version

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
ARG LICENSES=GPL-3.0-only
LABEL org.opencontainers.image.title="runsink" \
      org.opencontainers.image.description="Delivers every JobRun event on a Kafka topic to the sink the event names" \
      org.opencontainers.image.vendor="the runsink authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="${LICENSES}"
COPY --from=build /image /
USER 65532:65532
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/bin/runsink", "health"]
ENTRYPOINT ["/usr/bin/runsink"]
CMD ["run"]
