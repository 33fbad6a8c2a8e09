#include "cli/attention_options.h"

#include "cli/cli.h"

#include <float.h>
#include <limits.h>
#include <string.h>

enum {
    FOR_EACH = FLASHC_CLI_FOR_ATTENTION | FLASHC_CLI_FOR_EXPLAIN | FLASHC_CLI_FOR_BENCH,
    FOR_SHAPES = FLASHC_CLI_FOR_EXPLAIN | FLASHC_CLI_FOR_BENCH,
    FOR_PLANS = FLASHC_CLI_FOR_ATTENTION | FLASHC_CLI_FOR_EXPLAIN
};

enum {
    OPT_Q = 1, OPT_K, OPT_V, OPT_O, OPT_LSE, OPT_MASK, OPT_BIAS, OPT_SEQLENS_Q, OPT_SEQLENS_K, OPT_LEFTPAD_K,
    OPT_CU_SEQLENS_Q, OPT_CU_SEQLENS_K, OPT_BLOCK_TABLE, OPT_BLOCK_TABLE_V, OPT_SCALE, OPT_SOFTCAP, OPT_CAUSAL,
    OPT_WINDOW, OPT_ALIBI, OPT_SINKS, OPT_BLOCK_MASK, OPT_BLOCK_MASK_TILE, OPT_ALIGN, OPT_OFFSETS, OPT_LAYOUT,
    OPT_DTYPE, OPT_CACHE_DTYPE, OPT_K_SCALE, OPT_V_SCALE, OPT_OUT_DTYPE, OPT_THREADS, OPT_KERNEL, OPT_COMPUTE,
    OPT_STREAM_KV, OPT_PREFIX_K, OPT_PREFIX_V, OPT_PREFIX_K_SCALE, OPT_PREFIX_V_SCALE, OPT_SCORES, OPT_SCORES_STAGE,
    OPT_KEY_MASS, OPT_ROW_MAX, OPT_COMPARE, OPT_RTOL, OPT_ATOL, OPT_BATCH, OPT_HEADS, OPT_HEADS_K, OPT_SEQLEN_Q,
    OPT_SEQLEN_K, OPT_HEAD_DIM, OPT_HEAD_DIM_V, OPT_PACKED, OPT_PAGE_SIZE, OPT_REPEATS, OPT_SEED, OPT_COLD,
    OPT_HUGE_PAGES, OPT_NO_LIMITS, OPT_PROBE, OPT_PREDICT, OPT_BANDWIDTH, OPT_JSON, OPT_DRY_RUN, OPT_QUIET,
    OPT_VERBOSE
};

static const flashc_cli_option options[] = {
    {OPT_Q, "query", 'q', "FILE", "Q: [L,D], [H,L,D] or [B,H,L,D] (see --layout).", FOR_EACH},
    {OPT_K, "key", 'k', "FILE", "K, of Q's rank; Q's heads are a multiple of K's.", FOR_EACH},
    {OPT_V, "value", 'v', "FILE", "V, of K's shape but for the last axis.", FOR_EACH},
    {OPT_O, "output", 'o', "FILE", "Where O goes, in Q's rank and layout.", FOR_EACH},
    {OPT_LSE, "lse", 0, "FILE", "Where the log-sum-exp of each row goes: f32, [L], [H,L] or [B,H,L].", FOR_EACH},
    {OPT_MASK, "mask", 0, "FILE",
     "Boolean mask (bool, u8 or i8), non-zero = visible; broadcasts to [B,H,Lq,Lk] as in NumPy.", FOR_EACH},
    {OPT_BIAS, "bias", 0, "FILE", "Bias added to the scaled scores; broadcasts to [B,H,Lq,Lk] as in NumPy.", FOR_EACH},
    {OPT_SEQLENS_Q, "seqlens-q", 0, "FILE", "How many of its queries each batch element has: i32 or i64, [B].",
     FOR_EACH},
    {OPT_SEQLENS_K, "seqlens-k", 0, "FILE", "How many of its keys each batch element has, [B].", FOR_EACH},
    {OPT_LEFTPAD_K, "leftpad-k", 0, "FILE", "How many of these are padding in front, [B].", FOR_EACH},
    {OPT_CU_SEQLENS_Q, "cu-seqlens-q", 0, "FILE",
     "Q and O are packed, [H,L,D]: sequence b has the rows from number b to number b + 1 of this file, [B+1].",
     FOR_EACH},
    {OPT_CU_SEQLENS_K, "cu-seqlens-k", 0, "FILE", "K and V are packed in the same way.", FOR_EACH},
    {OPT_BLOCK_TABLE, "block-table", 0, "FILE",
     "K and V are pages of R rows, [P,H,R,D]: rows i*R to i*R + R - 1 of sequence b are page [b,i] of this file, "
     "[B,N].", FOR_EACH},
    {OPT_BLOCK_TABLE_V, "block-table-v", 0, "FILE", "The pages of V, if they are others.", FOR_EACH},
    {OPT_SCALE, "scale", 0, "X", "Factor of the scores; default 1/sqrt(head_dim).", FOR_EACH},
    {OPT_SOFTCAP, "softcap", 0, "X", "Cap the scaled scores: X * tanh(score / X); 0 (default): not.", FOR_EACH},
    {OPT_CAUSAL, "causal", 0, NULL, "Hide the keys after each query's position; needs --align.", FOR_EACH},
    {OPT_WINDOW, "window", 0, "L,R",
     "Hide the keys more than L before or R after each query's position; -1: as many as there are. Needs --align.",
     FOR_EACH},
    {OPT_ALIBI, "alibi", 0, "FILE",
     "Subtract slope * |distance of positions| from the scores, a slope for each head: [H] or [B,H]. Needs --align.",
     FOR_EACH},
    {OPT_SINKS, "sinks", 0, "FILE", "One more logit in each softmax, without a value: [H].", FOR_EACH},
    {OPT_BLOCK_MASK, "block-mask", 0, "FILE",
     "Boolean mask of whole tiles of scores: [tiles of queries, tiles of keys], or with [B,H] before them.", FOR_EACH},
    {OPT_BLOCK_MASK_TILE, "block-mask-tile", 0, "M,N", "M queries x N keys are a tile of --block-mask.", FOR_EACH},
    {OPT_ALIGN, "align", 0, "A",
     "Position of query 0 among the keys: top-left (0), bottom-right (seqlen_k - seqlen_q) or a number, "
     "which holds for every batch element.", FOR_EACH},
    {OPT_OFFSETS, "offsets", 0, "FILE", "Position of query 0 of each batch element, not --align: [B].", FOR_EACH},
    {OPT_LAYOUT, "layout", 0, "L", "Order of the axes of Q, K, V and O: bhsd (default) or bshd.", FOR_EACH},
    {OPT_DTYPE, "dtype", 0, "T",
     "Compute on f32, f16 or bf16: files of other floating types are converted. Only with bf16 is 2-byte raw "
     "data (<V2, |V2, <u2) read, as bf16.", FOR_EACH},
    {OPT_CACHE_DTYPE, "cache-dtype", 0, "T",
     "Type of K and V if it is not Q's: f32, f16, bf16, i8, f8_e4m3, f8_e5m2 or q8_0. In files codes of the 8-bit "
     "floats are u8, and blocks of q8_0 34 bytes of u8 each; i8 is taken as it is.", FOR_EACH},
    {OPT_K_SCALE, "k-scale", 0, "FILE",
     "Factors of K's codes: K's shape without the last axis (i8), sizes of 1 repeat (8-bit floats).", FOR_EACH},
    {OPT_V_SCALE, "v-scale", 0, "FILE", "Factors of V's codes.", FOR_EACH},
    {OPT_OUT_DTYPE, "out-dtype", 0, "T", "Type of O: f32, f16 or bf16 (written as <V2); default Q's type.", FOR_EACH},
    {OPT_THREADS, "threads", 0, "N", "Number of threads; default 0: all that this process may use.", FOR_EACH},
    {OPT_KERNEL, "kernel", 0, "NAME",
     "Kernel, by its name in `flashc-run info`; default the best that fits. "
     "For bench also all: each in turn.", FOR_EACH},
    {OPT_COMPUTE, "compute", 0, "T",
     "Type of the products: f32, or bf16 to allow kernels that round to it; default f32, and bf16 where Q, K and V all "
     "are bf16.", FOR_EACH},
    {OPT_SCORES, "scores", 0, "FILE",
     "Where the scores go: f32, [Lq,Lk], [H,Lq,Lk] or [B,H,Lq,Lk] whatever the layout.", FLASHC_CLI_FOR_ATTENTION},
    {OPT_SCORES_STAGE, "scores-stage", 0, "S",
     "Which scores: scaled (default), capped (after --softcap), masked (as softmax takes them, hidden keys -inf) or "
     "weights (after softmax).", FLASHC_CLI_FOR_ATTENTION},
    {OPT_KEY_MASS, "key-mass", 0, "FILE",
     "Where each key's sum of softmax weights over the queries goes: f32, [Lk], [H,Lk] or [B,H,Lk].",
     FLASHC_CLI_FOR_ATTENTION},
    {OPT_ROW_MAX, "row-max", 0, "FILE", "Where the largest visible score of each query goes, as --lse.",
     FLASHC_CLI_FOR_ATTENTION},
    {OPT_STREAM_KV, "stream-kv", 0, "ROWS",
     "Read K and V so many rows of a sequence at a time, each into the result before the next: for files larger than "
     "memory.",
     FLASHC_CLI_FOR_ATTENTION},
    {OPT_PREFIX_K, "prefix-k", 0, "FILE",
     "Keys that all batch elements share, in front of each one's own, read once for all: [H,L,D]. Needs --prefix-v.",
     FOR_PLANS},
    {OPT_PREFIX_V, "prefix-v", 0, "FILE", "Values of the keys of --prefix-k.", FOR_PLANS},
    {OPT_PREFIX_K_SCALE, "prefix-k-scale", 0, "FILE", "Factors of the codes of --prefix-k, as --k-scale.",
     FOR_PLANS},
    {OPT_PREFIX_V_SCALE, "prefix-v-scale", 0, "FILE", "Factors of the codes of --prefix-v.", FOR_PLANS},
    {OPT_COMPARE, "compare", 0, "REF", "Compare O with this file, after any output was written; a mismatch exits 1.",
     FOR_EACH},
    {OPT_RTOL, "rtol", 0, "X", "Relative tolerance of --compare, times |REF|.", FOR_EACH},
    {OPT_ATOL, "atol", 0, "X", "Absolute tolerance of --compare.", FOR_EACH},
    {OPT_BATCH, "batch", 0, "N", "Batch size; default 1.", FOR_SHAPES},
    {OPT_HEADS, "heads", 0, "N", "Query heads; default 8.", FOR_SHAPES},
    {OPT_HEADS_K, "heads-k", 0, "N", "Key/value heads; default those of Q.", FOR_SHAPES},
    {OPT_SEQLEN_Q, "seqlen-q", 0, "N", "Queries; default 2048.", FOR_SHAPES},
    {OPT_SEQLEN_K, "seqlen-k", 0, "N", "Keys; default as many as queries.", FOR_SHAPES},
    {OPT_HEAD_DIM, "head-dim", 0, "N", "Length of a query and of a key; default 64.", FOR_SHAPES},
    {OPT_HEAD_DIM_V, "head-dim-v", 0, "N", "Length of a value; default head-dim.", FOR_SHAPES},
    {OPT_PACKED, "packed", 0, NULL, "Pack the batch: all sequences one after the other.", FOR_SHAPES},
    {OPT_PAGE_SIZE, "page-size", 0, "N", "Keep K and V in pages of N rows, in random order.", FOR_SHAPES},
    {OPT_REPEATS, "repeats", 0, "N",
     "Timed repeats, each of at least 0.05 s and one call; default 10, or 5 if a call takes longer than a second.",
     FLASHC_CLI_FOR_BENCH},
    {OPT_SEED, "seed", 0, "N", "Seed of the random data; default 0.", FLASHC_CLI_FOR_BENCH},
    {OPT_COLD, "cold", 0, NULL,
     "Take K and V from memory: calls use copies of them in turn, which together no cache holds.",
     FLASHC_CLI_FOR_BENCH},
    {OPT_HUGE_PAGES, "huge-pages", 0, NULL, "With --cold: these copies in transparent huge pages.",
     FLASHC_CLI_FOR_BENCH},
    {OPT_NO_LIMITS, "no-limits", 0, NULL,
     "Do not measure the multiply-add peak and the read bandwidth: quicker, without the shares of them.",
     FLASHC_CLI_FOR_BENCH},
    {OPT_PROBE, "probe", 0, NULL,
     "Time the kernel against the others that could run the call, for less than a second, and warn if another one is "
     "faster by more than 3 %.", FLASHC_CLI_FOR_EXPLAIN},
    {OPT_PREDICT, "predict", 0, NULL,
     "Measure what the work costs here, and predict the time with 1, 2, 4, ... up to --threads threads, or 128.",
     FLASHC_CLI_FOR_EXPLAIN},
    {OPT_BANDWIDTH, "bandwidth", 0, "GB/s",
     "Memory bandwidth of the machine that --predict is for; default what is measured here with all threads.",
     FLASHC_CLI_FOR_EXPLAIN},
    {OPT_JSON, "json", 0, NULL, "One JSON object on standard output instead of text.", FOR_EACH},
    {OPT_DRY_RUN, "dry-run", 0, NULL, "Compute nothing; print what `flashc-run explain` prints.", FOR_EACH},
    {OPT_QUIET, "quiet", 0, NULL, "Print nothing but errors, a failed --compare and what --json asks for.", FOR_EACH},
    {OPT_VERBOSE, "verbose", 0, NULL, "Report also tiles, work items, and why faster kernels were refused.", FOR_EACH},
    {0, NULL, 0, NULL, NULL, 0},
};

static int parse_align(const char *text, flashc_cli_attention_args *args)
{
    const int is_number = text[0] == '-' || text[0] == '+' || (text[0] >= '0' && text[0] <= '9');
    if (strcmp(text, "top-left") == 0)
        args->alignment = FLASHC_ALIGN_TOP_LEFT;
    else if (strcmp(text, "bottom-right") == 0)
        args->alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    else if (is_number)
        args->alignment = FLASHC_ALIGN_EXPLICIT;
    else
        return flashc_cli_usage_error("--align expects top-left, bottom-right or a whole number, found '%s'", text);
    return is_number ? flashc_cli_parse_int("--align", text, INT64_MIN / 4, INT64_MAX / 4, &args->offset) : 0;
}

static int parse_threads(const char *text, int *threads)
{
    int64_t value;
    if (flashc_cli_parse_int("--threads", text, 0, INT_MAX, &value))
        return FLASHC_CLI_USAGE;
    *threads = (int)value;
    return 0;
}

static int parse_compute(const char *text, flashc_compute *compute)
{
    static const char *const types[] = {"f32", "bf16", NULL};
    int index = 0;
    if (flashc_cli_parse_word("--compute", text, types, "f32 or bf16", &index))
        return FLASHC_CLI_USAGE;
    *compute = index == 0 ? FLASHC_COMPUTE_F32 : FLASHC_COMPUTE_BF16;
    return 0;
}

static int parse_stage(const char *text, flashc_score_stage *stage)
{
    static const char *const stages[] = {"scaled", "capped", "masked", "weights", NULL};
    int index = 0;
    if (flashc_cli_parse_word("--scores-stage", text, stages, "scaled, capped, masked or weights", &index))
        return FLASHC_CLI_USAGE;
    *stage = (flashc_score_stage)index; /* words and stages are in one order */
    return 0;
}

/* 0, or FLASHC_CLI_USAGE after a message. */
static int take_option(int id, const char *value, void *parsed)
{
    flashc_cli_attention_args *args = parsed;
    switch (id) {
    case OPT_Q: args->q = value; return 0;
    case OPT_K: args->k = value; return 0;
    case OPT_V: args->v = value; return 0;
    case OPT_O: args->o = value; return 0;
    case OPT_LSE: args->lse = value; return 0;
    case OPT_MASK: args->mask = value; return 0;
    case OPT_BIAS: args->bias = value; return 0;
    case OPT_CU_SEQLENS_Q: args->cu_seqlens_q = value; return 0;
    case OPT_CU_SEQLENS_K: args->cu_seqlens_k = value; return 0;
    case OPT_SEQLENS_Q: args->seqlens_q = value; return 0;
    case OPT_SEQLENS_K: args->seqlens_k = value; return 0;
    case OPT_LEFTPAD_K: args->leftpad_k = value; return 0;
    case OPT_BLOCK_TABLE: args->block_table = value; return 0;
    case OPT_BLOCK_TABLE_V: args->block_table_v = value; return 0;
    case OPT_SCALE: return flashc_cli_parse_float("--scale", value, -FLT_MAX, FLT_MAX, &args->scale);
    case OPT_SOFTCAP: return flashc_cli_parse_float("--softcap", value, 0, FLT_MAX, &args->softcap);
    case OPT_CAUSAL: args->causal = 1; return 0;
    case OPT_WINDOW: return flashc_cli_parse_pair("--window", value, -1, args->window);
    case OPT_ALIBI: args->alibi = value; return 0;
    case OPT_SINKS: args->sinks = value; return 0;
    case OPT_BLOCK_MASK: args->block_mask = value; return 0;
    case OPT_BLOCK_MASK_TILE: return flashc_cli_parse_pair("--block-mask-tile", value, 1, args->block_mask_tile);
    case OPT_ALIGN: return parse_align(value, args);
    case OPT_OFFSETS: args->offsets = value; return 0;
    case OPT_LAYOUT: return flashc_cli_parse_layout(value, &args->bshd);
    case OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &args->dtype);
    case OPT_CACHE_DTYPE: return flashc_cli_parse_cache_dtype("--cache-dtype", value, &args->cache_dtype);
    case OPT_K_SCALE: args->k_scale = value; return 0;
    case OPT_V_SCALE: args->v_scale = value; return 0;
    case OPT_OUT_DTYPE: return flashc_cli_parse_dtype("--out-dtype", value, &args->out_dtype);
    case OPT_THREADS: return parse_threads(value, &args->num_threads);
    case OPT_KERNEL: args->kernel = value; return 0;
    case OPT_COMPUTE: return parse_compute(value, &args->compute);
    case OPT_SCORES: args->scores = value; return 0;
    case OPT_SCORES_STAGE: return parse_stage(value, &args->scores_stage);
    case OPT_KEY_MASS: args->key_mass = value; return 0;
    case OPT_ROW_MAX: args->row_max = value; return 0;
    case OPT_STREAM_KV: return flashc_cli_parse_int("--stream-kv", value, 1, INT64_MAX / 4, &args->stream_kv);
    case OPT_PREFIX_K: args->prefix_k = value; return 0;
    case OPT_PREFIX_V: args->prefix_v = value; return 0;
    case OPT_PREFIX_K_SCALE: args->prefix_k_scale = value; return 0;
    case OPT_PREFIX_V_SCALE: args->prefix_v_scale = value; return 0;
    case OPT_COMPARE: args->compare = value; return 0;
    case OPT_RTOL: return flashc_cli_parse_double("--rtol", value, 0, DBL_MAX, &args->rtol);
    case OPT_ATOL: return flashc_cli_parse_double("--atol", value, 0, DBL_MAX, &args->atol);
    case OPT_BATCH: return flashc_cli_parse_int("--batch", value, 0, INT64_MAX, &args->batch);
    case OPT_HEADS: return flashc_cli_parse_int("--heads", value, 1, INT64_MAX, &args->heads);
    case OPT_HEADS_K: return flashc_cli_parse_int("--heads-k", value, 1, INT64_MAX, &args->heads_k);
    case OPT_SEQLEN_Q: return flashc_cli_parse_int("--seqlen-q", value, 0, INT64_MAX, &args->seqlen_q);
    case OPT_SEQLEN_K: return flashc_cli_parse_int("--seqlen-k", value, 0, INT64_MAX, &args->seqlen_k);
    case OPT_HEAD_DIM: return flashc_cli_parse_int("--head-dim", value, 1, INT64_MAX, &args->head_dim);
    case OPT_HEAD_DIM_V: return flashc_cli_parse_int("--head-dim-v", value, 0, INT64_MAX, &args->head_dim_v);
    case OPT_PACKED: args->packed = 1; return 0;
    case OPT_PAGE_SIZE: return flashc_cli_parse_int("--page-size", value, 1, INT32_MAX, &args->page_size);
    case OPT_REPEATS: return flashc_cli_parse_int("--repeats", value, 1, INT_MAX, &args->repeats);
    case OPT_SEED: return flashc_cli_parse_int("--seed", value, 0, INT64_MAX, &args->seed);
    case OPT_COLD: args->cold = 1; return 0;
    case OPT_HUGE_PAGES: args->huge_pages = 1; return 0;
    case OPT_NO_LIMITS: args->no_limits = 1; return 0;
    case OPT_PROBE: args->probe = 1; return 0;
    case OPT_PREDICT: args->predict = 1; return 0;
    case OPT_BANDWIDTH: return flashc_cli_parse_double("--bandwidth", value, 0.001, 1e9, &args->bandwidth);
    case OPT_JSON: args->json = 1; return 0;
    case OPT_DRY_RUN: args->dry_run = 1; return 0;
    case OPT_QUIET: args->quiet = 1; return 0;
    default: args->verbose = 1; return 0;
    }
}

/* What goes together, and what not. */
static int check_together(flashc_cli_attention_args *args)
{
    const char *needs_align = args->causal                                    ? "--causal"
                              : args->window[0] >= 0 || args->window[1] >= 0 ? "--window"
                              : args->alibi                                  ? "--alibi"
                                                                             : NULL;
    if (args->offsets && args->alignment != FLASHC_ALIGN_UNSET)
        return flashc_cli_usage_error("give --align or --offsets, not both");
    if (args->offsets)
        args->alignment = FLASHC_ALIGN_EXPLICIT;
    if (needs_align && args->alignment == FLASHC_ALIGN_UNSET)
        return flashc_cli_usage_error("%s needs --align top-left, bottom-right or N", needs_align);
    if (args->huge_pages && !args->cold)
        return flashc_cli_usage_error("--huge-pages needs --cold");
    if (args->bandwidth > 0 && !args->predict)
        return flashc_cli_usage_error("--bandwidth needs --predict");
    if (!args->block_mask != !args->block_mask_tile[0])
        return flashc_cli_usage_error("--block-mask and --block-mask-tile go together");
    return FLASHC_CLI_OK;
}

int flashc_cli_attention_parse(const flashc_cli_syntax *words, int argc, char **argv, flashc_cli_attention_args *args,
                               int *exit_code)
{
    *args = (flashc_cli_attention_args){
        .window = {-1, -1}, .scale = FLASHC_SCALE_DEFAULT, .rtol = -1, .atol = -1, .batch = -1, .heads = -1,
        .heads_k = -1, .seqlen_q = -1, .seqlen_k = -1, .head_dim = -1, .head_dim_v = -1, .page_size = -1,
        .repeats = -1};
    flashc_cli_syntax syntax = *words;
    syntax.options = options;
    syntax.take = take_option;
    if (!flashc_cli_options_parse(&syntax, argc, argv, args, exit_code))
        return 0;
    *exit_code = check_together(args);
    return *exit_code == FLASHC_CLI_OK;
}
