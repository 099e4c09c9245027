# syntax=docker/dockerfile:1
# The image of pgweir: one binary and the certificates of the public authorities on a slim Debian, run by nobody in particular.
#
#   docker build -t pgweir .
#   docker run -p 6432:6432 -p 9632:9632 -e PGWEIR_UPSTREAM=postgres://app:secret@db.internal:5432/app pgweir
#
# To Amazon RDS with verify-full, mount Amazon's bundle and name it in the configuration ([tls.server] ca = "/etc/pgweir/rds-ca.pem"):
#
#   curl -fsSO https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
#   docker run -v "$PWD/global-bundle.pem:/etc/pgweir/rds-ca.pem:ro" \
#     -v "$PWD/pgweir.toml:/etc/pgweir/pgweir.toml:ro" -e PGWEIR_CONFIG=/etc/pgweir/pgweir.toml .. pgweir
#
# `deploy/docker/prove` builds and runs it with no Docker engine and no registry of images.

ARG BUILDER=rust:1.95-bookworm
# Anything with glibc and libgcc serves; gcr.io/distroless/cc-debian12 is smaller and has no shell.
ARG RUNTIME=debian:bookworm-slim

FROM ${BUILDER} AS builder
# `quick` links in a fraction of the time, for trying things.
ARG PROFILE=release
# Built twice, the second time laid out by what the first one did at work beside a PostgreSQL in this stage. 0 builds once.
ARG OPTIMISE=1
WORKDIR /build
COPY . .
RUN if [ "${OPTIMISE}" = 1 ]; then tests/setup optimise && benches/optimise --profile "${PROFILE}" --out "target/${PROFILE}/pgweir"; \
    else cargo build --locked --profile "${PROFILE}" --bin pgweir; fi \
 && install -D -m 755 "target/${PROFILE}/pgweir" /out/usr/local/bin/pgweir \
 && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt \
 && install -D -m 644 -t /out/usr/share/doc/pgweir LICENSE-APACHE LICENSE-MIT

FROM ${RUNTIME}
# One layer, and nothing run in this stage: the base may well have no shell.
COPY --from=builder /out /
# A number, so that Kubernetes' runAsNonRoot can see that it is not root; no file in the image belongs to it.
USER 65532:65532
# Operations answer without a password: publish 9632 to whoever watches, and to nobody else.
ENV PGWEIR_LISTEN__HTTP=0.0.0.0:9632
EXPOSE 6432 9632
# Alive, not ready: a container that is replaced because its database is down, or while it drains, helps nobody. Balancers ask /readyz.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["pgweir", "healthcheck"]
# Not ready at once, open transactions finished, idle clients told last; the grace of the platform must be longer than the drain's.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgweir"]
CMD ["serve"]
