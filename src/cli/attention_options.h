/*
 * The options of `attention`, `explain` and `bench`: one table, one struct of values.
 */
#ifndef FLASHC_CLI_ATTENTION_OPTIONS_H
#define FLASHC_CLI_ATTENTION_OPTIONS_H

#include "cli/options.h"

#include <flashc.h>
#include <stdint.h>

typedef struct flashc_cli_attention_args {
    /* File names, NULL = not given, "-" = standard input or output. */
    const char *q, *k, *v, *o, *lse, *mask, *bias, *k_scale, *v_scale;
    const char *cu_seqlens_q, *cu_seqlens_k, *seqlens_q, *seqlens_k, *leftpad_k, *block_table, *block_table_v;
    const char *alibi, *sinks, *block_mask;
    const char *score_mod, *score_mod_data;
    int64_t block_mask_tile[2]; /* queries, keys; 0 = not given */
    int64_t window[2];        /* left, right; -1 = open */
    float softcap;            /* 0 = none */
    float scale;              /* FLASHC_SCALE_DEFAULT = not given */
    int causal;
    flashc_alignment alignment;
    int64_t offset;           /* for FLASHC_ALIGN_EXPLICIT, the same for every batch element, unless there is a */
    const char *offsets;      /* file of them */
    int bshd;                 /* --layout bshd */
    int dtype, cache_dtype, out_dtype; /* a flashc_dtype; 0 = not given */
    int num_threads;          /* 0 = default */
    const char *scores, *key_mass, *row_max; /* attention: outputs */
    flashc_score_stage scores_stage;
    int64_t stream_kv;        /* attention; rows of a chunk; 0 = not given */
    const char *save_state, *resume_state;
    int64_t first_key;        /* -1 = not given */
    int64_t total_keys;       /* 0 = not given */
    const char *prefix_k, *prefix_v, *prefix_k_scale, *prefix_v_scale; /* attention, explain */
    const char *kernel;       /* NULL = best */
    flashc_compute compute;
    const char *compare;
    double rtol, atol;        /* < 0 = the type's default */
    int json, dry_run, quiet, verbose;
    /* Shapes instead of files (explain, bench); -1 = not given. */
    int64_t batch, heads, heads_k, seqlen_q, seqlen_k, head_dim, head_dim_v;
    int packed;               /* --packed */
    int64_t page_size;        /* -1 = not given */
    int64_t repeats;          /* bench; -1 = not given */
    int64_t seed;             /* bench */
    int cold, huge_pages, no_limits; /* bench */
    int probe, predict;       /* explain */
    double bandwidth;         /* explain; 1e9 bytes per second; 0 = not given */
} flashc_cli_attention_args;

/* Reads argv into *args. words: command, usage, description and notes. Returns 1: go on; 0: stop, and return
 * *exit_code, as flashc_cli_options_parse() does. */
int flashc_cli_attention_parse(const flashc_cli_syntax *words, int argc, char **argv, flashc_cli_attention_args *args,
                               int *exit_code);

#endif
