"""The public contract, on which other people's scripts depend: keys and exit codes."""

THROUGHPUT_KEYS = {
    *("model", "res", "batch", "backend", "precision", "device", "status", "verdict", "reason"),
    *("images_per_s", "images_per_s_low", "images_per_s_high"),
    *("latency_s_p50", "latency_s_p90", "latency_s_p99", "blocks", "prepare_s", "peak_bytes"),
    *("params", "macs", "winograd_macs", "flops_per_s", "mfu", "limit_images_per_s", "limit_fraction"),
    "error_vs_fp32",
}
FLOPS_KEYS = {
    *("model", "res", "params", "macs", "flops", "winograd_macs", "winograd_macs_all"),
    *("weight_bytes", "activation_bytes", "arithmetic_intensity"),
}
DONE, FAILED, USAGE, NOTHING_MEASURED, NOT_VALID, INTERRUPTED = 0, 1, 2, 3, 4, 130
