"""flashc beside other attention implementations, same arrays, interleaved rounds: see scripts/bench_peers."""
