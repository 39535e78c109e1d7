# The gateway alone: one binary, ONNX Runtime beside it, state in /data.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 models/fetch_runtime.py && cargo build --release --package sluice

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libstdc++6 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /data sluice
COPY --from=build /src/target/release/sluice /src/.runtime/libonnxruntime.so /usr/local/bin/
USER sluice
WORKDIR /data
VOLUME /data
EXPOSE 8080
# The working directory is /data, so a sluice.toml mounted there is read, and the database lies in /data/data.
ENTRYPOINT ["sluice"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
