# One image for every role: `windrow api`, `windrow scheduler`, `windrow worker`, `windrow migrate`.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src

# The dependencies alone, in a layer that only a change of a manifest makes anew: each crate is an empty one for now.
COPY Cargo.toml Cargo.lock ./
COPY api/Cargo.toml api/
COPY bench/Cargo.toml bench/
COPY cli/Cargo.toml cli/
COPY devserver/Cargo.toml devserver/
COPY jobs/Cargo.toml jobs/
COPY queue/Cargo.toml queue/
COPY schedule/Cargo.toml schedule/
COPY scheduler/Cargo.toml scheduler/
COPY tests/Cargo.toml tests/
COPY worker/Cargo.toml worker/
COPY xtask/Cargo.toml xtask/
RUN mkdir -p tests/support tests/e2e \
 && touch tests/support/lib.rs tests/e2e/main.rs \
 && for crate in api devserver jobs queue schedule scheduler worker; do mkdir -p "$crate/src" && touch "$crate/src/lib.rs" || exit 1; done \
 && for crate in bench cli xtask; do mkdir -p "$crate/src" && echo 'fn main() {}' > "$crate/src/main.rs" || exit 1; done \
 && cargo build --release --locked --package windrow

# The files' own times may be older than the empty crates', and cargo goes by them.
COPY . .
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package windrow \
 && mkdir /imports

FROM debian:bookworm-slim
# Against which certificates of servers are checked; from the builder, so that nothing is installed here.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/windrow /usr/local/bin/windrow
# A volume that is mounted here begins with this folder's owner.
COPY --from=build --chown=10001:10001 /imports /var/lib/windrow/imports
WORKDIR /etc/windrow
COPY config config
# No such user needs to exist: nothing is owned by it and nothing is written outside of volumes.
USER 10001:10001
# windrow drains on SIGTERM by itself and starts no processes that would have to be collected: it can be process 1.
ENTRYPOINT ["windrow"]
CMD ["--help"]
