# Shortcuts only: each recipe is one command that works as well without just.

# what there is
default:
    @just --list

# install what building and testing need (Debian packages, npm packages)
setup:
    scripts/setup

# install what is missing, then check everything; or only some steps: just test rust e2e
test *steps:
    scripts/test {{ steps }}

# one node in dev mode: demo wall at /, dashboard at /admin, nothing else needed
dev:
    cargo run --release -p roomcast-gateway -- serve --dev

# Redis, two nodes, HAProxy and Prometheus as local processes
cluster *args:
    cargo build --release -p roomcast-gateway
    scripts/cluster {{ args }}

# three nodes behind HAProxy with live traffic to look at
demo *args:
    cargo build --release -p roomcast-gateway
    scripts/demo {{ args }}

# render the Helm chart with Helm itself and hold it against the schemas of Kubernetes (builds Helm once, with Go)
chart:
    scripts/check-chart

# format everything
fmt:
    cargo fmt --all

# what clippy and rustfmt think
lint:
    scripts/test fmt clippy

# memory of idle sockets on one node
bench-idle *args:
    cargo run --release -p roomcast-loadtest -- idle {{ args }}

# load test: many subscribers, a stream of events, loss and latency
fanout *args:
    cargo run --release -p roomcast-loadtest -- fanout {{ args }}

# break a cluster on purpose and judge what its clients saw: every scenario, and a random one
chaos *args:
    scripts/chaos {{ args }}

# roomcast and its peers by turns on this machine: CPU, latency and memory as ratios
compare *args:
    scripts/compare {{ args }}

# a flame graph of a node while a command runs: just flame out.svg -- COMMAND
flame *args:
    scripts/flame {{ args }}

# crowds that race over a cluster whose replies get lost: every scenario, fixed seeds and a random one
race *args:
    scripts/race {{ args }}

# likes, counts and reservations through the store, as ratios of redis-benchmark with the same words
bench-counters:
    cargo bench --locked -p roomcast-counter --bench counters
