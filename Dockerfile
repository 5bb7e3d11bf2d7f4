# Three images of one binary each, static and without a shell:
#
#     docker build --target worker   -t fetchworker/worker .
#     docker build --target replayer -t fetchworker/replayer .
#     docker build --target gateway  -t fetchworker/gateway .
#
# They write nothing but FETCH_DATA_DIR, and that only without NATS_URL: run
# them with a read-only root.

FROM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ENV CGO_ENABLED=0
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/worker ./cmd/replayer ./cmd/gateway
RUN mkdir -p /out/data

FROM scratch AS base
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
USER 65532:65532
ENV FETCH_HTTP_ADDR=0.0.0.0:8080
EXPOSE 8080

FROM base AS replayer
COPY --from=build /out/replayer /replayer
ENTRYPOINT ["/replayer"]
CMD ["run"]

FROM base AS gateway
COPY --from=build /out/gateway /gateway
# Beyond its own machine it serves nobody without a token.
ENV FETCH_GATEWAY_ADDR=0.0.0.0:8081 FETCH_GATEWAY_TOKENS=/etc/fetchworker/tokens.yaml
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/gateway", "health"]
ENTRYPOINT ["/gateway"]

FROM base AS worker
COPY --from=build /out/worker /worker
# For a worker without NATS_URL: docker run -v fetchworker:/data …
COPY --from=build --chown=65532:65532 /out/data /data
ENV FETCH_DATA_DIR=/data
VOLUME /data
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/worker", "health"]
ENTRYPOINT ["/worker"]
