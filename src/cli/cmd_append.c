#include "cli/array.h"
#include "cli/cli.h"
#include "cli/integers.h"
#include "cli/job.h"
#include "cli/layout.h"
#include "cli/output.h"

enum {
    OPT_KEY = 1, OPT_VALUE, OPT_QUERY, OPT_CACHE_K, OPT_CACHE_V, OPT_OUTPUT_K, OPT_OUTPUT_V, OPT_OUTPUT_Q,
    OPT_POSITIONS, OPT_SEQLENS, OPT_CU_SEQLENS, OPT_BLOCK_TABLE, OPT_BLOCK_TABLE_V, OPT_COS, OPT_SIN,
    OPT_INTERLEAVED, OPT_ROTARY_POSITIONS, OPT_LAYOUT, OPT_DTYPE, OPT_CACHE_DTYPE, OPT_QUIET
};

static const flashc_cli_option options[] = {
    {OPT_KEY, "key", 'k', "FILE", "New rows of K: [H,L,D] or [B,H,L,D] (see --layout).", FLASHC_CLI_FOR_ALL},
    {OPT_VALUE, "value", 'v', "FILE", "New rows of V, of K's shape but for the last axis.", FLASHC_CLI_FOR_ALL},
    {OPT_QUERY, "query", 'q', "FILE", "The queries of the same positions, to be rotated like K.", FLASHC_CLI_FOR_ALL},
    {OPT_CACHE_K, "cache-k", 0, "FILE",
     "The cache of K as it is: [B,H,L,D], or with --block-table pages [P,H,R,D].", FLASHC_CLI_FOR_ALL},
    {OPT_CACHE_V, "cache-v", 0, "FILE", "The cache of V.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_K, "output-k", 0, "FILE", "Where the cache of K goes with the new rows in it.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_V, "output-v", 0, "FILE", "Where the cache of V goes.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_Q, "output-q", 0, "FILE", "Where the rotated queries go, in their type.", FLASHC_CLI_FOR_ALL},
    {OPT_POSITIONS, "positions", 0, "FILE",
     "For each sequence the row of the cache that its first new row becomes: i32 or i64, [B].", FLASHC_CLI_FOR_ALL},
    {OPT_SEQLENS, "seqlens", 0, "FILE", "How many of the L rows each sequence has, [B]; default all.",
     FLASHC_CLI_FOR_ALL},
    {OPT_CU_SEQLENS, "cu-seqlens", 0, "FILE",
     "The new rows are packed, [H,L,D]: sequence b has the rows from number b to number b + 1 of this file, [B+1].",
     FLASHC_CLI_FOR_ALL},
    {OPT_BLOCK_TABLE, "block-table", 0, "FILE",
     "The caches are pages: rows i*R to i*R + R - 1 of sequence b are page [b,i] of this file, [B,N].",
     FLASHC_CLI_FOR_ALL},
    {OPT_BLOCK_TABLE_V, "block-table-v", 0, "FILE", "The pages of V, if they are others.", FLASHC_CLI_FOR_ALL},
    {OPT_COS, "cos", 0, "FILE",
     "Rotate K and Q: cosines [positions, rotary_dim / 2]; goes with --sin.", FLASHC_CLI_FOR_ALL},
    {OPT_SIN, "sin", 0, "FILE", "The sines, of the same shape.", FLASHC_CLI_FOR_ALL},
    {OPT_INTERLEAVED, "interleaved", 0, NULL,
     "Rotate columns 2d and 2d + 1 together, rather than d and d + rotary_dim / 2.", FLASHC_CLI_FOR_ALL},
    {OPT_ROTARY_POSITIONS, "rotary-positions", 0, "FILE",
     "Position of each sequence's first new row in the cosines and sines, [B]; default --positions.",
     FLASHC_CLI_FOR_ALL},
    {OPT_LAYOUT, "layout", 0, "L", "Order of the axes of all arrays: bhsd (default) or bshd.", FLASHC_CLI_FOR_ALL},
    {OPT_DTYPE, "dtype", 0, "T",
     "Convert the new rows to f32, f16 or bf16 first; only with bf16 is 2-byte raw data read, as bf16.",
     FLASHC_CLI_FOR_ALL},
    {OPT_CACHE_DTYPE, "cache-dtype", 0, "T", "The same for the caches: the type that they are kept in.",
     FLASHC_CLI_FOR_ALL},
    {OPT_QUIET, "quiet", 0, NULL, "Print nothing but errors.", FLASHC_CLI_FOR_ALL},
    {0, NULL, 0, NULL, NULL, 0},
};

enum { KEY, VALUE, QUERY, CACHE_K, CACHE_V, COS, SIN, NUM_ARRAYS };
enum { POSITIONS, SEQLENS, CU_SEQLENS, BLOCK_TABLE, BLOCK_TABLE_V, ROTARY_POSITIONS, NUM_INTEGERS };
enum { NUM_OUTPUTS = 3 };

typedef struct append_run {
    const char *array_path[NUM_ARRAYS], *integers_path[NUM_INTEGERS], *output_path[NUM_OUTPUTS]; /* NULL: not given */
    int interleaved, bshd, dtype, cache_dtype, quiet;
    flashc_cli_array array[NUM_ARRAYS];
    flashc_cli_integers integers[NUM_INTEGERS];
    flashc_append_params params;
} append_run;

static int take_option(int id, const char *value, append_run *run)
{
    static const int arrays[] = {[OPT_KEY] = KEY,         [OPT_VALUE] = VALUE, [OPT_QUERY] = QUERY,
                                 [OPT_CACHE_K] = CACHE_K, [OPT_CACHE_V] = CACHE_V, [OPT_COS] = COS, [OPT_SIN] = SIN};
    static const int integers[] = {[OPT_POSITIONS] = POSITIONS,         [OPT_SEQLENS] = SEQLENS,
                                   [OPT_CU_SEQLENS] = CU_SEQLENS,       [OPT_BLOCK_TABLE] = BLOCK_TABLE,
                                   [OPT_BLOCK_TABLE_V] = BLOCK_TABLE_V, [OPT_ROTARY_POSITIONS] = ROTARY_POSITIONS};
    switch (id) {
    case OPT_KEY:
    case OPT_VALUE:
    case OPT_QUERY:
    case OPT_CACHE_K:
    case OPT_CACHE_V:
    case OPT_COS:
    case OPT_SIN: run->array_path[arrays[id]] = value; return 0;
    case OPT_OUTPUT_K:
    case OPT_OUTPUT_V:
    case OPT_OUTPUT_Q: run->output_path[id - OPT_OUTPUT_K] = value; return 0;
    case OPT_INTERLEAVED: run->interleaved = 1; return 0;
    case OPT_LAYOUT: return flashc_cli_parse_layout(value, &run->bshd);
    case OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &run->dtype);
    case OPT_CACHE_DTYPE: return flashc_cli_parse_dtype("--cache-dtype", value, &run->cache_dtype);
    case OPT_QUIET: run->quiet = 1; return 0;
    default: run->integers_path[integers[id]] = value; return 0;
    }
}

/* What goes together. */
static int check_args(const append_run *run)
{
    static const struct {
        int array, partner, output;
        const char *name, *partner_name, *output_name;
    } pairs[] = {{KEY, CACHE_K, 0, "-k", "--cache-k", "--output-k"},
                 {VALUE, CACHE_V, 1, "-v", "--cache-v", "--output-v"},
                 {QUERY, QUERY, 2, "-q", "-q", "--output-q"}};
    int given = 0;
    for (int i = 0; i < NUM_OUTPUTS; i++) {
        const int has = run->array_path[pairs[i].array] != NULL, partner = run->array_path[pairs[i].partner] != NULL;
        const int output = run->output_path[pairs[i].output] != NULL;
        given += has;
        if (has != partner || has != output)
            return flashc_cli_usage_error("%s, %s and %s go together: one of them is missing", pairs[i].name,
                                          pairs[i].partner_name, pairs[i].output_name);
    }
    if (!given)
        return flashc_cli_usage_error("nothing to do: give at least one of -k, -v and -q");
    if (!run->array_path[COS] != !run->array_path[SIN])
        return flashc_cli_usage_error("--cos and --sin go together: one of them is missing");
    if (!run->integers_path[POSITIONS] && (run->array_path[KEY] || run->array_path[VALUE]))
        return flashc_cli_usage_error("--positions FILE is missing");
    return FLASHC_CLI_OK;
}

static int read_files(append_run *run)
{
    for (int i = 0; i < NUM_ARRAYS; i++) {
        flashc_cli_array *array = &run->array[i];
        const int is_cache = i == CACHE_K || i == CACHE_V, is_table = i == COS || i == SIN;
        if (!run->array_path[i])
            continue;
        if (flashc_cli_array_read(run->array_path[i], 0, array) ||
            flashc_cli_array_to_float(array, is_cache ? run->cache_dtype : is_table ? 0 : run->dtype))
            return FLASHC_CLI_FAILED;
        char found[FLASHC_CLI_SHAPE_TEXT];
        if (is_table ? array->rank != 2 : array->rank != 3 && array->rank != 4)
            return flashc_cli_error("%s: expected rank %s, found rank %d %s", array->name, is_table ? "2" : "3 or 4",
                                    array->rank, flashc_cli_shape_text(array->rank, array->shape, found));
        if (!is_table && flashc_cli_array_pack(array)) /* it is written in C order again */
            return FLASHC_CLI_FAILED;
    }
    for (int i = 0; i < NUM_INTEGERS; i++) {
        const int is_table = i == BLOCK_TABLE || i == BLOCK_TABLE_V;
        if (run->integers_path[i] &&
            (flashc_cli_integers_read(run->integers_path[i], is_table ? 2 : 1, &run->integers[i]) ||
             (is_table && flashc_cli_integers_narrow(&run->integers[i]))))
            return FLASHC_CLI_FAILED;
    }
    return FLASHC_CLI_OK;
}

static int check_size(const flashc_cli_array *array, int64_t found, int64_t expected, const char *what)
{
    if (found == expected)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has %s %lld: expected %lld", array->name, what, (long long)found, (long long)expected);
}

/* A cache in the same layout, of so many heads and columns. */
static int set_cache(append_run *run, int which, int64_t heads, int64_t cols, flashc_tensor *view,
                     const flashc_cli_integers *pages, flashc_block_table *table)
{
    const flashc_cli_array *array = &run->array[which];
    int64_t sizes[4];
    *view = flashc_cli_layout_tensor(array, run->bshd, sizes);
    if (check_size(array, sizes[1], heads, "heads") || check_size(array, sizes[3], cols, "columns") ||
        (!pages->narrow && check_size(array, sizes[0], run->params.batch, "batch")))
        return FLASHC_CLI_FAILED;
    run->params.seqlen_cache = sizes[2];
    if (pages->narrow)
        *table = (flashc_block_table){.pages = pages->narrow,
                                      .stride = {pages->shape[1], 1},
                                      .max_pages = pages->shape[1],
                                      .num_pages = sizes[0],
                                      .page_size = sizes[2]};
    return pages->narrow && pages->shape[0] != run->params.batch
               ? flashc_cli_error("%s has %lld rows: expected %lld, one for each sequence", pages->name,
                                  (long long)pages->shape[0], (long long)run->params.batch)
               : FLASHC_CLI_OK;
}

/* The new rows: all of one batch and length. */
static int set_new_rows(append_run *run)
{
    flashc_append_params *p = &run->params;
    flashc_tensor *const views[] = {&p->k, &p->v, &p->q};
    int64_t sizes[4], elements = -1;
    for (int i = KEY; i <= QUERY; i++) {
        const flashc_cli_array *array = &run->array[i];
        if (!run->array_path[i])
            continue;
        *views[i] = flashc_cli_layout_tensor(array, run->bshd, sizes);
        if (elements >= 0 && (check_size(array, sizes[0], elements, "batch") ||
                              check_size(array, sizes[2], p->seqlen_new, "rows") ||
                              (i == VALUE && check_size(array, sizes[1], p->num_heads_k, "heads")) ||
                              (i == QUERY && run->array_path[KEY] &&
                               check_size(array, sizes[3], p->head_dim, "head_dim"))))
            return FLASHC_CLI_FAILED;
        elements = sizes[0];
        p->seqlen_new = sizes[2];
        *(i == QUERY ? &p->num_heads : &p->num_heads_k) = sizes[1];
        *(i == VALUE ? &p->head_dim_v : &p->head_dim) = sizes[3];
    }
    const flashc_cli_integers *cu = &run->integers[CU_SEQLENS];
    if (cu->values && elements != 1)
        return flashc_cli_error("%s: packed rows have no batch axis, found one of %lld", cu->name, (long long)elements);
    if (cu->values && cu->shape[0] < 1)
        return flashc_cli_error("%s: expected a number for each sequence and one more, found none", cu->name);
    p->batch = cu->values ? cu->shape[0] - 1 : elements;
    if (p->head_dim == 0) /* of V alone */
        p->head_dim = 1;
    return FLASHC_CLI_OK;
}

static int set_params(append_run *run)
{
    flashc_append_params *p = &run->params;
    flashc_append_params_init(p, sizeof *p);
    if (set_new_rows(run))
        return FLASHC_CLI_FAILED;
    const flashc_cli_integers *n = run->integers, *pages = &n[BLOCK_TABLE];
    const int own_v = n[BLOCK_TABLE_V].narrow != NULL;
    const int per_sequence[] = {POSITIONS, SEQLENS, ROTARY_POSITIONS};
    for (size_t i = 0; i < sizeof per_sequence / sizeof per_sequence[0]; i++)
        if (n[per_sequence[i]].values &&
            flashc_cli_integers_check_count(&n[per_sequence[i]], p->batch, "one for each sequence"))
            return FLASHC_CLI_FAILED;
    flashc_block_table same;
    if ((run->array_path[KEY] &&
         set_cache(run, CACHE_K, p->num_heads_k, p->head_dim, &p->k_cache, pages, &p->block_table)) ||
        (run->array_path[VALUE] &&
         set_cache(run, CACHE_V, p->num_heads_k, p->head_dim_v, &p->v_cache, own_v ? &n[BLOCK_TABLE_V] : pages,
                   own_v                    ? &p->block_table_v
                   : run->array_path[KEY] ? &same
                                            : &p->block_table)))
        return FLASHC_CLI_FAILED;
    if (run->array_path[KEY] && run->array_path[VALUE] && pages->narrow && !own_v &&
        (same.num_pages != p->block_table.num_pages || same.page_size != p->block_table.page_size))
        return flashc_cli_error("%s has %lld pages of %lld rows, %s has %lld of %lld: one table is for both",
                                run->array[CACHE_K].name, (long long)p->block_table.num_pages,
                                (long long)p->block_table.page_size, run->array[CACHE_V].name,
                                (long long)same.num_pages, (long long)same.page_size);
    p->q_out = p->q;
    p->positions = n[POSITIONS].values;
    p->seqlens_new = n[SEQLENS].values;
    p->cu_seqlens_new = n[CU_SEQLENS].values;
    p->rotary_positions = n[ROTARY_POSITIONS].values;
    p->rotary_interleaved = run->interleaved;
    if (!run->array_path[COS])
        return FLASHC_CLI_OK;
    const flashc_cli_array *cosines = &run->array[COS], *sines = &run->array[SIN];
    int64_t sizes[4];
    p->rotary_cos = flashc_cli_layout_tensor(cosines, 0, sizes);
    p->rotary_sin = flashc_cli_layout_tensor(sines, 0, sizes);
    p->rotary_dim = 2 * cosines->shape[1];
    p->rotary_len = cosines->shape[0];
    return check_size(sines, sines->shape[0], p->rotary_len, "rows") ||
           check_size(sines, sines->shape[1], p->rotary_dim / 2, "columns");
}

static int run_append(append_run *run)
{
    const flashc_cli_output outputs[NUM_OUTPUTS] = {{run->output_path[0], &run->array[CACHE_K]},
                                                    {run->output_path[1], &run->array[CACHE_V]},
                                                    {run->output_path[2], &run->array[QUERY]}};
    const int data_on_stdout = flashc_cli_outputs_use_stdout(NUM_OUTPUTS, outputs);
    flashc_npy_batch *batch;
    if (read_files(run) || set_params(run) || flashc_cli_outputs_reserve(NUM_OUTPUTS, outputs, &batch))
        return FLASHC_CLI_FAILED;
    const flashc_status status = flashc_append(&run->params);
    if (status != FLASHC_OK) {
        flashc_npy_abort(batch);
        return flashc_cli_library_error(status);
    }
    if (flashc_cli_outputs_write(NUM_OUTPUTS, outputs, batch))
        return FLASHC_CLI_FAILED;
    if (!run->quiet)
        fprintf(data_on_stdout ? stderr : stdout, "appended   to %lld sequences, rotary_dim %lld\n",
                (long long)run->params.batch, (long long)run->params.rotary_dim);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}

int flashc_cmd_append(int argc, char **argv)
{
    append_run run = {.quiet = 0};
    const char *value = NULL;
    int id;
    while ((id = flashc_cli_options_next(options, FLASHC_CLI_FOR_ALL, argc, argv, &value)) > 0)
        if (take_option(id, value, &run))
            return FLASHC_CLI_USAGE;
    if (id == FLASHC_CLI_OPTIONS_HELP)
        return flashc_cli_print_help(
            options, FLASHC_CLI_FOR_ALL,
            "flashc-run append -k K --cache-k C --output-k NEW --positions P [options]",
            "Writes new rows of K and V into caches, contiguous or in pages, at each sequence's position, in the "
            "caches' type, with rotary embedding of K and Q if --cos and --sin are given. The caches are read, and "
            "written to other files. '-' means standard input or standard output.", NULL);
    if (id == FLASHC_CLI_OPTIONS_ERROR)
        return FLASHC_CLI_USAGE;
    const char *operand = flashc_cli_first_operand(argc, argv);
    if (operand)
        return flashc_cli_usage_error("unexpected argument '%s'", operand);
    int exit_code = check_args(&run);
    if (exit_code == FLASHC_CLI_OK)
        exit_code = run_append(&run);
    for (int i = 0; i < NUM_ARRAYS; i++)
        flashc_cli_array_free(&run.array[i]);
    for (int i = 0; i < NUM_INTEGERS; i++)
        flashc_cli_integers_free(&run.integers[i]);
    return exit_code;
}
