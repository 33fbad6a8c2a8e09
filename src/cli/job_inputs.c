#include "cli/job_inputs.h"

#include "cli/arithmetic.h"
#include "cli/caches.h"
#include "cli/cli.h"
#include "cli/layout.h"

#include <string.h>

enum { DEFAULT_HEADS = 8, DEFAULT_SEQLEN = 2048, DEFAULT_HEAD_DIM = 64 };

/* expected: a rank; q: what has it, or NULL if the call's form asks for it. */
static int check_rank(const flashc_cli_array *array, int expected, const flashc_cli_array *q, int bshd)
{
    char text[FLASHC_CLI_SHAPE_TEXT];
    const char *found = flashc_cli_shape_text(array->rank, array->shape, text);
    if (array->rank < 2 || array->rank > 4)
        return flashc_cli_error("%s: expected rank 2 [L,D], 3 %s or 4 %s, found rank %d %s", array->name,
                                bshd ? "[L,H,D]" : "[H,L,D]", bshd ? "[B,L,H,D]" : "[B,H,L,D]", array->rank, found);
    if (array->rank == expected)
        return FLASHC_CLI_OK;
    if (q)
        return flashc_cli_error("%s has rank %d %s, %s has rank %d: they must be the same", array->name, array->rank,
                                found, q->name, q->rank);
    return flashc_cli_error("%s: expected rank %d, %s, found rank %d %s", array->name, expected,
                            expected == 3 ? "packed sequences" : "a batch or pages", array->rank, found);
}

static int check_ranks(const flashc_cli_job *job, int bshd)
{
    const flashc_cli_array *q = &job->q, *of_k = q;
    const flashc_cli_sequences *s = &job->sequences;
    int rank_k = q->rank;
    if (s->cu_seqlens_q.values || s->cu_seqlens_k.values || s->block_table.narrow) {
        rank_k = s->cu_seqlens_k.values && !s->block_table.narrow ? 3 : 4;
        of_k = NULL;
    }
    return check_rank(q, s->cu_seqlens_q.values ? 3 : q->rank, NULL, bshd) ||
           check_rank(&job->k, rank_k, of_k, bshd) || check_rank(&job->v, rank_k, of_k, bshd);
}

/* Two arrays must agree in a size. */
static int check_same(const flashc_cli_array *a, int64_t size_a, const flashc_cli_array *b, int64_t size_b,
                      const char *what)
{
    char text[FLASHC_CLI_SIZE_TEXT];
    if (size_a == size_b)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has %s, %s has %lld: they must be the same", a->name,
                            flashc_cli_size_text(what, size_a, text), b->name, (long long)size_b);
}

static int check_heads(const flashc_cli_array *q, int64_t heads, const flashc_cli_array *k, int64_t heads_k)
{
    char text[FLASHC_CLI_SIZE_TEXT];
    if (heads_k > 0 ? heads % heads_k == 0 : heads == 0)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has %s, %s has %lld: %lld is not a multiple of %lld", q->name,
                            flashc_cli_size_text("heads", heads, text), k->name, (long long)heads_k, (long long)heads,
                            (long long)heads_k);
}

/* Sizes and views of Q, K and V. */
static int set_inputs(flashc_cli_job *job, int bshd)
{
    flashc_attention_params *p = &job->params;
    const flashc_cli_array *q = &job->q, *k = &job->k, *v = &job->v;
    const flashc_cli_sequences *s = &job->sequences;
    int64_t sq[4], sk[4], sv[4];
    if (check_ranks(job, bshd))
        return FLASHC_CLI_FAILED;
    p->q = flashc_cli_layout_tensor(q, bshd, sq);
    p->k = flashc_cli_layout_tensor(k, bshd, sk);
    p->v = flashc_cli_layout_tensor(v, bshd, sv);
    sk[3] *= flashc_cli_dtype_columns(k->dtype);
    sv[3] *= flashc_cli_dtype_columns(v->dtype);
    const int padded_k = !s->cu_seqlens_k.values && !s->block_table.narrow, own_v = s->block_table_v.narrow != NULL;
    p->batch = s->cu_seqlens_q.values ? s->cu_seqlens_q.shape[0] - 1 : sq[0];
    if ((padded_k && !s->cu_seqlens_q.values && check_same(q, sq[0], k, sk[0], "batch")) ||
        (!own_v && check_same(k, sk[0], v, sv[0], padded_k ? "batch" : "pages")) || check_heads(q, sq[1], k, sk[1]) ||
        check_same(k, sk[1], v, sv[1], "heads") || (!own_v && check_same(k, sk[2], v, sv[2], "seqlen_k")) ||
        check_same(q, sq[3], k, sk[3], "head_dim"))
        return FLASHC_CLI_FAILED;
    char text[FLASHC_CLI_SIZE_TEXT];
    if (padded_k && sk[0] != p->batch)
        return flashc_cli_error("%s has batch %lld, %s has %s: they must be the same", k->name, (long long)sk[0],
                                s->cu_seqlens_q.name, flashc_cli_size_text("sequences", p->batch, text));
    if (sq[3] < 1)
        return flashc_cli_error("%s has head_dim 0: expected at least 1", q->name);
    p->num_heads = sq[1];
    p->num_heads_k = sk[1];
    p->seqlen_q = sq[2];
    p->seqlen_k = s->block_table.narrow ? flashc_cli_multiply(s->block_table.shape[1], sk[2]) : sk[2];
    p->head_dim = sq[3];
    p->head_dim_v = sv[3];
    const int64_t k_pages[2] = {sk[0], sk[2]}, v_pages[2] = {sv[0], sv[2]};
    return flashc_cli_sequences_set(s, k_pages, v_pages, p);
}

static int read_inputs(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job)
{
    const struct { const char *path, *option; flashc_cli_array *array; } inputs[] = {
        {args->q, "-q", &job->q}, {args->k, "-k", &job->k}, {args->v, "-v", &job->v}};
    for (int i = 0; i < 3; i++)
        if (!inputs[i].path)
            return flashc_cli_usage_error("%s FILE is missing", inputs[i].option);
    if (args->batch >= 0 || args->heads >= 0 || args->heads_k >= 0 || args->seqlen_q >= 0 || args->seqlen_k >= 0 ||
        args->head_dim >= 0 || args->head_dim_v >= 0 || args->packed || args->page_size > 0)
        return flashc_cli_usage_error("give either the files -q, -k and -v or shapes, not both");
    for (int i = 0; i < 3; i++)
        if (flashc_cli_array_read(inputs[i].path, plan_only || (i > 0 && args->stream_kv), inputs[i].array) ||
            (i == 0 ? flashc_cli_array_to_float(inputs[i].array, args->dtype)
                    : flashc_cli_array_to_cache(inputs[i].array, args->cache_dtype ? args->cache_dtype : args->dtype)))
            return FLASHC_CLI_FAILED;
    if (flashc_cli_sequences_read(args, &job->sequences) || set_inputs(job, args->bshd))
        return FLASHC_CLI_FAILED;
    flashc_attention_params *p = &job->params;
    return flashc_cli_scales_read("--k-scale", args->k_scale, plan_only, &job->k, args->bshd, &job->k_scale,
                                  &p->k_scale) ||
           flashc_cli_scales_read("--v-scale", args->v_scale, plan_only, &job->v, args->bshd, &job->v_scale,
                                  &p->v_scale);
}

static int64_t or_default(int64_t value, int64_t otherwise)
{
    return value >= 0 ? value : otherwise;
}

static int make_inputs(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job)
{
    const flashc_dtype dtype = args->dtype ? (flashc_dtype)args->dtype : FLASHC_F32;
    const flashc_dtype cache_dtype = args->cache_dtype ? (flashc_dtype)args->cache_dtype : dtype;
    const int64_t columns = flashc_cli_dtype_columns(cache_dtype);
    const int64_t batch = or_default(args->batch, 1), heads = or_default(args->heads, DEFAULT_HEADS);
    const int64_t heads_k = or_default(args->heads_k, heads);
    const int64_t seqlen_q = or_default(args->seqlen_q, DEFAULT_SEQLEN);
    const int64_t seqlen_k = or_default(args->seqlen_k, seqlen_q);
    const int64_t head_dim = or_default(args->head_dim, DEFAULT_HEAD_DIM);
    const int64_t head_dim_v = or_default(args->head_dim_v, head_dim);
    const int64_t page_size = or_default(args->page_size, 0);
    const int64_t pages_each = page_size ? seqlen_k / page_size + (seqlen_k % page_size != 0) : 0;
    const int rows = args->bshd ? 1 : 2, head = args->bshd ? 2 : 1, rank = args->packed ? 3 : 4;
    int64_t shape[3][4];
    for (int i = 0; i < 3; i++) {
        const int paged = i > 0 && page_size;
        shape[i][0] = paged ? flashc_cli_multiply(batch, pages_each) : batch;
        shape[i][head] = i == 0 ? heads : heads_k;
        shape[i][rows] = paged ? page_size : i == 0 ? seqlen_q : seqlen_k;
        shape[i][3] = (i == 2 ? head_dim_v : head_dim) / (i == 0 ? 1 : columns);
        if (args->packed) {
            shape[i][rows] = flashc_cli_multiply(shape[i][rows], batch);
            memmove(shape[i], shape[i] + 1, 3 * sizeof shape[i][0]);
        }
    }
    if (heads % heads_k != 0)
        return flashc_cli_usage_error("--heads expects a multiple of --heads-k %lld, found %lld%s", (long long)heads_k,
                                      (long long)heads, args->heads < 0 ? ", the default" : "");
    if (head_dim % columns != 0 || head_dim_v % columns != 0)
        return flashc_cli_usage_error("--cache-dtype q8_0 expects multiples of 32 for --head-dim and --head-dim-v");
    if (args->packed && page_size)
        return flashc_cli_usage_error("give --packed or --page-size, not both");
    if (args->cu_seqlens_q || args->cu_seqlens_k || args->block_table || args->block_table_v)
        return flashc_cli_usage_error("shapes are packed by --packed and put in pages by --page-size, not by files");
    if (args->seqlens_k && page_size)
        return flashc_cli_usage_error("give --seqlens-k or --page-size, not both");
    /* The arrays first: where these can be, products of the sizes are numbers of 64 bits. */
    if (flashc_cli_array_make("q", dtype, rank, shape[0], plan_only, &job->q) ||
        flashc_cli_array_make("k", cache_dtype, rank, shape[1], plan_only, &job->k) ||
        flashc_cli_array_make("v", cache_dtype, rank, shape[2], plan_only, &job->v))
        return FLASHC_CLI_FAILED;
    if (flashc_cli_sequences_read(args, &job->sequences) ||
        (args->packed && flashc_cli_sequences_pack(batch, seqlen_q, seqlen_k, &job->sequences)) ||
        (page_size && flashc_cli_sequences_page(batch, pages_each, seqlen_k, &job->sequences)) ||
        set_inputs(job, args->bshd))
        return FLASHC_CLI_FAILED;
    flashc_attention_params *p = &job->params;
    return flashc_cli_scales_make("k_scale", plan_only, &job->k, args->bshd, &job->k_scale, &p->k_scale) ||
           flashc_cli_scales_make("v_scale", plan_only, &job->v, args->bshd, &job->v_scale, &p->v_scale);
}

int flashc_cli_job_inputs(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job)
{
    return args->q || args->k || args->v ? read_inputs(args, plan_only, job) : make_inputs(args, plan_only, job);
}
