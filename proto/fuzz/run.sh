#!/bin/bash
# Usage: proto/fuzz/run.sh [SECONDS]
# Fuzzes the manifest parser for that long (60 by default); fails on a crash, a hang or a leak of
# memory and leaves the input below target/fuzz/artifacts. Needs a C++ compiler, but neither
# cargo-fuzz nor a nightly toolchain: coverage comes from LLVM's own pass.
set -euo pipefail
seconds=${1:-60}
fuzz=$(cd "$(dirname "$0")" && pwd)
out=$fuzz/../../target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target the flags reach what is fuzzed, but not build scripts and macros.
RUSTFLAGS="$(echo $coverage) --cfg fuzzing" \
  cargo build --quiet --release --manifest-path "$fuzz/Cargo.toml" --target "$host" --target-dir "$out"

mkdir -p "$out/corpus" "$out/artifacts"
exec "$out/$host/release/manifest" "$out/corpus" "$fuzz/../tests/fixtures" \
  -dict="$fuzz/manifest.dict" -artifact_prefix="$out/artifacts/" -max_total_time="$seconds" \
  -max_len=4096 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
