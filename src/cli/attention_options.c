#include "cli/attention_options.h"

#include "cli/arithmetic.h"
#include "cli/attention_table.h"
#include "cli/cli.h"
#include "cli/cpu_features.h"
#include "cli/library_error.h"

#include <float.h>
#include <limits.h>
#include <string.h>

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

/* At least `least`, and no more than the library takes. */
static int parse_size(const char *option, const char *text, int64_t least, int64_t *size)
{
    return flashc_cli_parse_int(option, text, least, FLASHC_CLI_MOST, size);
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
    case FLASHC_OPT_Q: args->q = value; return 0;
    case FLASHC_OPT_K: args->k = value; return 0;
    case FLASHC_OPT_V: args->v = value; return 0;
    case FLASHC_OPT_O: args->o = value; return 0;
    case FLASHC_OPT_LSE: args->lse = value; return 0;
    case FLASHC_OPT_MASK: args->mask = value; return 0;
    case FLASHC_OPT_BIAS: args->bias = value; return 0;
    case FLASHC_OPT_CU_SEQLENS_Q: args->cu_seqlens_q = value; return 0;
    case FLASHC_OPT_CU_SEQLENS_K: args->cu_seqlens_k = value; return 0;
    case FLASHC_OPT_SEQLENS_Q: args->seqlens_q = value; return 0;
    case FLASHC_OPT_SEQLENS_K: args->seqlens_k = value; return 0;
    case FLASHC_OPT_LEFTPAD_K: args->leftpad_k = value; return 0;
    case FLASHC_OPT_BLOCK_TABLE: args->block_table = value; return 0;
    case FLASHC_OPT_BLOCK_TABLE_V: args->block_table_v = value; return 0;
    case FLASHC_OPT_SCALE: return flashc_cli_parse_float("--scale", value, -FLT_MAX, FLT_MAX, &args->scale);
    case FLASHC_OPT_SOFTCAP: return flashc_cli_parse_float("--softcap", value, 0, FLT_MAX, &args->softcap);
    case FLASHC_OPT_CAUSAL: args->causal = 1; return 0;
    case FLASHC_OPT_WINDOW: return flashc_cli_parse_pair("--window", value, -1, args->window);
    case FLASHC_OPT_ALIBI: args->alibi = value; return 0;
    case FLASHC_OPT_SINKS: args->sinks = value; return 0;
    case FLASHC_OPT_BLOCK_MASK: args->block_mask = value; return 0;
    case FLASHC_OPT_BLOCK_MASK_TILE: return flashc_cli_parse_pair("--block-mask-tile", value, 1, args->block_mask_tile);
    case FLASHC_OPT_SCORE_MOD: args->score_mod = value; return 0;
    case FLASHC_OPT_SCORE_MOD_DATA: args->score_mod_data = value; return 0;
    case FLASHC_OPT_ALIGN: return parse_align(value, args);
    case FLASHC_OPT_OFFSETS: args->offsets = value; return 0;
    case FLASHC_OPT_LAYOUT: return flashc_cli_parse_layout(value, &args->bshd);
    case FLASHC_OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &args->dtype);
    case FLASHC_OPT_CACHE_DTYPE: return flashc_cli_parse_cache_dtype("--cache-dtype", value, &args->cache_dtype);
    case FLASHC_OPT_K_SCALE: args->k_scale = value; return 0;
    case FLASHC_OPT_V_SCALE: args->v_scale = value; return 0;
    case FLASHC_OPT_OUT_DTYPE: return flashc_cli_parse_dtype("--out-dtype", value, &args->out_dtype);
    case FLASHC_OPT_THREADS: return parse_threads(value, &args->num_threads);
    case FLASHC_OPT_KERNEL: args->kernel = value; return 0;
    case FLASHC_OPT_COMPUTE: return parse_compute(value, &args->compute);
    case FLASHC_OPT_SCORES: args->scores = value; return 0;
    case FLASHC_OPT_SCORES_STAGE: return parse_stage(value, &args->scores_stage);
    case FLASHC_OPT_KEY_MASS: args->key_mass = value; return 0;
    case FLASHC_OPT_ROW_MAX: args->row_max = value; return 0;
    case FLASHC_OPT_STREAM_KV: return flashc_cli_parse_int("--stream-kv", value, 1, INT64_MAX / 4, &args->stream_kv);
    case FLASHC_OPT_SAVE_STATE: args->save_state = value; return 0;
    case FLASHC_OPT_RESUME_STATE: args->resume_state = value; return 0;
    case FLASHC_OPT_FIRST_KEY: return parse_size("--first-key", value, 0, &args->first_key);
    case FLASHC_OPT_TOTAL_KEYS: return parse_size("--total-keys", value, 1, &args->total_keys);
    case FLASHC_OPT_PREFIX_K: args->prefix_k = value; return 0;
    case FLASHC_OPT_PREFIX_V: args->prefix_v = value; return 0;
    case FLASHC_OPT_PREFIX_K_SCALE: args->prefix_k_scale = value; return 0;
    case FLASHC_OPT_PREFIX_V_SCALE: args->prefix_v_scale = value; return 0;
    case FLASHC_OPT_COMPARE: args->compare = value; return 0;
    case FLASHC_OPT_RTOL: return flashc_cli_parse_double("--rtol", value, 0, DBL_MAX, &args->rtol);
    case FLASHC_OPT_ATOL: return flashc_cli_parse_double("--atol", value, 0, DBL_MAX, &args->atol);
    case FLASHC_OPT_BATCH: return parse_size("--batch", value, 0, &args->batch);
    case FLASHC_OPT_HEADS: return parse_size("--heads", value, 1, &args->heads);
    case FLASHC_OPT_HEADS_K: return parse_size("--heads-k", value, 1, &args->heads_k);
    case FLASHC_OPT_SEQLEN_Q: return parse_size("--seqlen-q", value, 0, &args->seqlen_q);
    case FLASHC_OPT_SEQLEN_K: return parse_size("--seqlen-k", value, 0, &args->seqlen_k);
    case FLASHC_OPT_HEAD_DIM: return parse_size("--head-dim", value, 1, &args->head_dim);
    case FLASHC_OPT_HEAD_DIM_V: return parse_size("--head-dim-v", value, 0, &args->head_dim_v);
    case FLASHC_OPT_PACKED: args->packed = 1; return 0;
    case FLASHC_OPT_PAGE_SIZE: return flashc_cli_parse_int("--page-size", value, 1, INT32_MAX, &args->page_size);
    case FLASHC_OPT_REPEATS: return flashc_cli_parse_int("--repeats", value, 1, INT_MAX, &args->repeats);
    case FLASHC_OPT_SEED: return flashc_cli_parse_int("--seed", value, 0, INT64_MAX, &args->seed);
    case FLASHC_OPT_COLD: args->cold = 1; return 0;
    case FLASHC_OPT_HUGE_PAGES: args->huge_pages = 1; return 0;
    case FLASHC_OPT_NO_LIMITS: args->no_limits = 1; return 0;
    case FLASHC_OPT_PROBE: args->probe = 1; return 0;
    case FLASHC_OPT_PREDICT: args->predict = 1; return 0;
    case FLASHC_OPT_BANDWIDTH: return flashc_cli_parse_double("--bandwidth", value, 0.001, 1e9, &args->bandwidth);
    case FLASHC_OPT_JSON: args->json = 1; return 0;
    case FLASHC_OPT_DRY_RUN: args->dry_run = 1; return 0;
    case FLASHC_OPT_QUIET: args->quiet = 1; return 0;
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
    if (args->seqlens_q && args->cu_seqlens_q)
        return flashc_cli_usage_error("give --seqlens-q or --cu-seqlens-q, not both");
    if (args->block_table && args->cu_seqlens_k)
        return flashc_cli_usage_error("give --block-table or --cu-seqlens-k, not both (--seqlens-k says how many rows "
                                      "of its pages a sequence has)");
    if (args->seqlens_k && args->cu_seqlens_k)
        return flashc_cli_usage_error("give --seqlens-k or --cu-seqlens-k, not both");
    if (args->block_table_v && !args->block_table)
        return flashc_cli_usage_error("--block-table-v needs --block-table");
    if (args->huge_pages && !args->cold)
        return flashc_cli_usage_error("--huge-pages needs --cold");
    if (args->bandwidth > 0 && !args->predict)
        return flashc_cli_usage_error("--bandwidth needs --predict");
    if (!args->block_mask != !args->block_mask_tile[0])
        return flashc_cli_usage_error("--block-mask and --block-mask-tile go together");
    if (args->score_mod_data && !args->score_mod)
        return flashc_cli_usage_error("--score-mod-data needs --score-mod");
    return FLASHC_CLI_OK;
}

/* What the library calls them. */
static void name_fields(const flashc_cli_attention_args *args)
{
    static flashc_cli_field fields[32];
    const flashc_cli_field all[] = {
        {"q", "-q", args->q},
        {"k", "-k", args->k},
        {"v", "-v", args->v},
        {"mask", "--mask", args->mask},
        {"bias", "--bias", args->bias},
        {"k_scale", "--k-scale", args->k_scale},
        {"v_scale", "--v-scale", args->v_scale},
        {"cu_seqlens_q", "--cu-seqlens-q", args->cu_seqlens_q},
        {"cu_seqlens_k", "--cu-seqlens-k", args->cu_seqlens_k},
        {"seqlens_q", "--seqlens-q", args->seqlens_q},
        {"seqlens_k", "--seqlens-k", args->seqlens_k},
        {"leftpad_k", "--leftpad-k", args->leftpad_k},
        {"offsets", "--offsets", args->offsets},
        {"block_table", "--block-table", args->block_table},
        {"block_table_v", "--block-table-v", args->block_table_v},
        {"alibi_slopes", "--alibi", args->alibi},
        {"sinks", "--sinks", args->sinks},
        {"block_mask", "--block-mask", args->block_mask},
        {"prefix->k", "--prefix-k", args->prefix_k},
        {"prefix->v", "--prefix-v", args->prefix_v},
        {"prefix->k_scale", "--prefix-k-scale", args->prefix_k_scale},
        {"prefix->v_scale", "--prefix-v-scale", args->prefix_v_scale},
    };
    _Static_assert(sizeof all < sizeof fields, "room for all, and the end");
    memcpy(fields, all, sizeof all);
    flashc_cli_library_fields(fields);
}

int flashc_cli_attention_parse(const flashc_cli_syntax *words, int argc, char **argv, flashc_cli_attention_args *args,
                               int *exit_code)
{
    *args = (flashc_cli_attention_args){
        .window = {-1, -1}, .scale = FLASHC_SCALE_DEFAULT, .first_key = -1, .rtol = -1, .atol = -1, .batch = -1,
        .heads = -1, .heads_k = -1, .seqlen_q = -1, .seqlen_k = -1, .head_dim = -1, .head_dim_v = -1, .page_size = -1,
        .repeats = -1};
    flashc_cli_syntax syntax = *words;
    syntax.options = flashc_cli_attention_table;
    syntax.groups = flashc_cli_attention_groups;
    syntax.take = take_option;
    if (!flashc_cli_options_parse(&syntax, argc, argv, args, exit_code))
        return 0;
    name_fields(args);
    *exit_code = check_together(args);
    if (*exit_code == FLASHC_CLI_OK && !args->quiet)
        flashc_cli_warn_of_cpu_features();
    return *exit_code == FLASHC_CLI_OK;
}
