/* The loops that peak.c times, a row for each instruction set. */
#ifndef FLASHC_CLI_PEAK_LOOPS_H
#define FLASHC_CLI_PEAK_LOOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct flashc_peak_loop {
    const char *isa;
    bool (*usable)(void);
    void (*f32)(int64_t rounds);  /* rounds > 0 */
    double f32_flops;             /* per round */
    void (*bf16)(int64_t rounds); /* NULL: none */
    double bf16_flops;
    /* Loads n > 0 bytes (a multiple of 512, 64-byte aligned) in a way that no compiler leaves out. */
    void (*read)(const void *data, size_t n);
    bool is_avx2;
} flashc_peak_loop;

/* Widest first, NULL at the end. The last can always run. */
extern const flashc_peak_loop *const flashc_peak_loops[];

#endif
