/* What this machine can do, measured in this process: the limits that flashc-run bench compares with. */
#ifndef FLASHC_CLI_PEAK_H
#define FLASHC_CLI_PEAK_H

#include <stdint.h>

/* Both measurements run on up to `threads` threads at once (fewer if the OpenMP limits say so, one
 * in a build without OpenMP) and report how many ran. */
typedef struct flashc_fma_peak {
    const char *isa;    /* the instructions that were fastest, e.g. "avx512f" */
    int threads;        /* how many ran at once                               */
    double gflops;      /* f32 multiply-adds, two operations each, all threads together */
    double avx2_gflops; /* f32 multiply-adds of 256 bits, which bound the AVX2 kernels; 0 if the CPU has none */
    double bf16_gflops; /* bf16 dot products with f32 sums (AVX512_BF16, BFMMLA); 0 if the CPU has none */
} flashc_fma_peak;

typedef struct flashc_read_bandwidth {
    int threads;
    int64_t buffer_size;       /* bytes that were read per round; 0: no memory for a buffer */
    int64_t cache_size;        /* the last-level cache it was sized by; 0: unknown          */
    double gbytes_per_second;  /* 1e9 bytes; 0 if not measured                              */
} flashc_read_bandwidth;

/* Takes about a second, up to three on a busy machine. */
void flashc_measure_fma_peak(int threads, flashc_fma_peak *out);

/* Takes about a second: its buffer is at least four times the last-level cache, at most 1 GiB, at
 * most a third of the memory that is free. */
void flashc_measure_read_bandwidth(int threads, flashc_read_bandwidth *out);

/* The size of the buffer above: data of this size does not stay in a cache from one use to the next. */
int64_t flashc_read_buffer_size(void);

#endif
