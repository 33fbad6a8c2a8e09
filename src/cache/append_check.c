#include "cache/append_check.h"

#include "params.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static flashc_status check_sizes(const flashc_append_params *p)
{
    const struct {
        const char *name;
        int64_t value, low;
    } sizes[] = {
        {"batch", p->batch, 0},           {"num_heads", p->num_heads, 0},       {"num_heads_k", p->num_heads_k, 0},
        {"seqlen_new", p->seqlen_new, 0}, {"seqlen_cache", p->seqlen_cache, 0}, {"head_dim", p->head_dim, 1},
        {"head_dim_v", p->head_dim_v, 0}, {"rotary_dim", p->rotary_dim, 0},     {"rotary_len", p->rotary_len, 0},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        flashc_status status = flashc_params_check_size(sizes[i].name, sizes[i].value, sizes[i].low);
        if (status != FLASHC_OK)
            return status;
    }
    if (p->rotary_dim > p->head_dim || p->rotary_dim % 2 != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "rotary_dim: expected an even number up to head_dim = %" PRId64 ", found %" PRId64,
                           p->head_dim, p->rotary_dim);
    if (p->rotary_interleaved != 0 && p->rotary_interleaved != 1)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "rotary_interleaved: expected 0 or 1, found %d", p->rotary_interleaved);
    return FLASHC_OK;
}

static flashc_status check_new_rows(const flashc_append_params *p)
{
    if (p->seqlens_new && p->cu_seqlens_new)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "seqlens_new: expected NULL beside cu_seqlens_new, which says the same, found %p",
                           (const void *)p->seqlens_new);
    if (p->cu_seqlens_new)
        return flashc_params_check_cu_seqlens("cu_seqlens_new", p->cu_seqlens_new, p->batch, p->seqlen_new,
                                              "seqlen_new");
    for (int64_t b = 0; p->seqlens_new && b < p->batch; b++)
        if (p->seqlens_new[b] < 0 || p->seqlens_new[b] > p->seqlen_new)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "seqlens_new[%" PRId64 "]: expected 0 to seqlen_new = %" PRId64 ", found %" PRId64, b,
                               p->seqlen_new, p->seqlens_new[b]);
    return FLASHC_OK;
}

static flashc_status check_tables(const flashc_append_params *p)
{
    flashc_status status = flashc_cache_check_tables_given(&p->block_table, &p->block_table_v);
    if (status == FLASHC_OK && p->block_table.pages)
        status = flashc_cache_check_table("block_table", &p->block_table, p->batch);
    if (status == FLASHC_OK && p->block_table_v.pages)
        status = flashc_cache_check_table("block_table_v", &p->block_table_v, p->batch);
    return status;
}

/* The queries may be turned where they lie, element by element. */
static bool is_in_place(const flashc_tensor *a, const flashc_tensor *b)
{
    bool same = a->data == b->data && a->dtype == b->dtype;
    for (int axis = 0; axis < 4; axis++)
        same = same && a->stride[axis] == b->stride[axis];
    return same;
}

static flashc_tensor_argument cache_argument(const char *name, const flashc_tensor *tensor,
                                             const flashc_block_table *t, const flashc_append_params *p, int64_t cols)
{
    return (flashc_tensor_argument){.name = name,
                                    .tensor = tensor,
                                    .size = {t->pages ? t->num_pages : p->batch, p->num_heads_k,
                                             t->pages ? t->page_size : p->seqlen_cache, cols},
                                    .direction = FLASHC_OUTPUT,
                                    .types = FLASHC_TYPES_CACHE};
}

/* Written with i8, read with the 8-bit floats. */
static flashc_tensor_argument scale_argument(const char *name, const flashc_tensor *scale,
                                             const flashc_tensor_argument *cache)
{
    flashc_tensor_argument a = *cache;
    a.name = name;
    a.tensor = scale;
    a.size[3] = 1;
    a.direction = cache->tensor->dtype == FLASHC_I8 ? FLASHC_OUTPUT : FLASHC_INPUT;
    a.types = FLASHC_TYPES_F32;
    return a;
}

/* Places in the list of arguments. */
enum { K_CACHE = 1, V_CACHE = 3, Q_OUT = 5, COS = 6 };

/* others: all arguments but scales. */
static flashc_status check_scale(const flashc_tensor_argument *scale, const flashc_tensor_argument *cache,
                                 const flashc_tensor_argument *others, int n_others)
{
    const void *data = scale->tensor->data;
    if (!cache->tensor->data)
        return data ? flashc_fail(FLASHC_ERR_ARGUMENT, "%s.data: expected NULL without %s, found %p", scale->name,
                                  cache->name, data)
                    : FLASHC_OK;
    flashc_status status = flashc_cache_check_scale_given(scale->name, scale->tensor, cache);
    if (status == FLASHC_OK && data)
        status = flashc_tensor_check(scale);
    for (int i = 0; i < n_others && status == FLASHC_OK && data; i++)
        if (others[i].direction == FLASHC_OUTPUT)
            status = flashc_tensor_check_apart(&others[i], scale);
        else if (scale->direction == FLASHC_OUTPUT)
            status = flashc_tensor_check_apart(scale, &others[i]);
    return status;
}

static flashc_status check_scales(const flashc_append_params *p, const flashc_tensor_argument *others, int n_others)
{
    const flashc_tensor_argument *k_cache = &others[K_CACHE], *v_cache = &others[V_CACHE];
    const flashc_tensor_argument k = scale_argument("k_cache_scale", &p->k_cache_scale, k_cache);
    const flashc_tensor_argument v = scale_argument("v_cache_scale", &p->v_cache_scale, v_cache);
    flashc_status status = check_scale(&k, k_cache, others, n_others);
    if (status == FLASHC_OK)
        status = check_scale(&v, v_cache, others, n_others);
    if (status == FLASHC_OK && v.tensor->data && (k.direction == FLASHC_OUTPUT || v.direction == FLASHC_OUTPUT))
        status = flashc_tensor_check_apart(&v, &k);
    return status;
}

static flashc_status check_tensors(const flashc_append_params *p)
{
    const int64_t sequences = p->cu_seqlens_new ? 1 : p->batch;
    const flashc_block_table *table_v = flashc_cache_table_v(&p->block_table, &p->block_table_v);
    /* In pairs of where rows come from and where they go. */
    const flashc_tensor_argument arguments[] = {
        {"k", &p->k, {sequences, p->num_heads_k, p->seqlen_new, p->head_dim}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
        cache_argument("k_cache", &p->k_cache, &p->block_table, p, p->head_dim),
        {"v", &p->v, {sequences, p->num_heads_k, p->seqlen_new, p->head_dim_v}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
        cache_argument("v_cache", &p->v_cache, table_v, p, p->head_dim_v),
        {"q", &p->q, {sequences, p->num_heads, p->seqlen_new, p->head_dim}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
        {"q_out", &p->q_out, {sequences, p->num_heads, p->seqlen_new, p->head_dim}, FLASHC_OUTPUT, FLASHC_TYPES_FLOAT},
        {"rotary_cos", &p->rotary_cos, {1, 1, p->rotary_len, p->rotary_dim / 2}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
        {"rotary_sin", &p->rotary_sin, {1, 1, p->rotary_len, p->rotary_dim / 2}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
    };
    enum { COUNT = sizeof arguments / sizeof arguments[0] };
    for (int i = 0; i < COUNT; i++) {
        const flashc_tensor_argument *a = &arguments[i], *partner = &arguments[i ^ 1];
        if (i < COS ? !a->tensor->data && !partner->tensor->data : p->rotary_dim == 0)
            continue;
        flashc_status status = flashc_tensor_check(a);
        for (int j = 0; j < COUNT && status == FLASHC_OK && a->direction == FLASHC_OUTPUT; j++)
            if (j != i && !(i == Q_OUT && j == Q_OUT - 1 && is_in_place(&p->q, &p->q_out)))
                status = flashc_tensor_check_apart(a, &arguments[j]);
        if (status != FLASHC_OK)
            return status;
    }
    return check_scales(p, arguments, COUNT);
}

/* So many new rows from first on must lie in 0 .. capacity - 1. */
static flashc_status check_position(const char *name, int64_t b, int64_t first, int64_t rows, int64_t capacity,
                                    const char *of_what)
{
    if (first < 0 || first > capacity - rows)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s[%" PRId64 "]: expected 0 to %" PRId64 " (%" PRId64 " new rows, %s has %" PRId64
                           " rows), found %" PRId64,
                           name, b, capacity - rows, rows, of_what, capacity, first);
    return FLASHC_OK;
}

static flashc_status check_rows_in_cache(const flashc_append_params *p, int64_t b)
{
    const struct {
        const char *name;
        const flashc_block_table *table;
    } tables[] = {{"block_table", &p->block_table}, {"block_table_v", &p->block_table_v}};
    const int64_t first = p->positions[b], rows = flashc_append_rows(p, b);
    if (!p->block_table.pages)
        return check_position("positions", b, first, rows, p->seqlen_cache, "the cache");
    flashc_status status = FLASHC_OK;
    for (int i = 0; i < 2 && status == FLASHC_OK; i++)
        if (tables[i].table->pages) {
            status = check_position("positions", b, first, rows, flashc_cache_capacity(tables[i].table),
                                    tables[i].name);
            if (status == FLASHC_OK)
                status = flashc_cache_check_pages(tables[i].name, tables[i].table, b, first, first + rows);
        }
    return status;
}

static bool writes_cache(const flashc_append_params *p)
{
    return p->k.data || p->k_cache.data || p->v.data || p->v_cache.data;
}

static flashc_status check_positions(const flashc_append_params *p)
{
    const bool rotates = p->rotary_dim > 0;
    if (!p->positions && p->batch > 0 && (writes_cache(p) || (rotates && !p->rotary_positions)))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "positions: expected one per sequence, found NULL");
    flashc_status status = FLASHC_OK;
    for (int64_t b = 0; b < p->batch && status == FLASHC_OK; b++) {
        if (writes_cache(p))
            status = check_rows_in_cache(p, b);
        if (status == FLASHC_OK && rotates)
            status = check_position(p->rotary_positions ? "rotary_positions" : "positions", b,
                                    flashc_append_rotary_position(p, b), flashc_append_rows(p, b), p->rotary_len,
                                    "rotary_cos");
    }
    return status;
}

/* What the rows of an 8-bit float are divided by. */
static flashc_status check_divisors(const char *name, const flashc_tensor *scale, const flashc_tensor *cache,
                                    const flashc_block_table *t, const flashc_append_params *p)
{
    const flashc_cache_rows rows = {.tensor = *cache, .table = *t, .scale = *scale};
    if (!scale->data || cache->dtype == FLASHC_I8)
        return FLASHC_OK;
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t head = 0; head < p->num_heads_k; head++)
            for (int64_t row = p->positions[b]; row < p->positions[b] + flashc_append_rows(p, b); row++) {
                const float x = *flashc_cache_scale(&rows, b, head, row);
                const flashc_cache_place place = flashc_cache_find(&rows, b, row);
                if (!isfinite(x) || !(x > 0.0f))
                    return flashc_fail(FLASHC_ERR_ARGUMENT,
                                       "%s[%" PRId64 "][%" PRId64 "][%" PRId64
                                       "]: expected a finite value above 0, found %g",
                                       name, place.element, head, place.row, (double)x);
            }
    return FLASHC_OK;
}

/* No page is written for two entries: one of them would be lost. */
static flashc_status check_pages_once(const char *name, const flashc_block_table *t, const flashc_append_params *p)
{
    unsigned char *seen = calloc((size_t)t->num_pages / 8 + 1, 1);
    if (!seen)
        return flashc_fail(FLASHC_ERR_MEMORY, "%s: could not allocate %" PRId64 " bytes", name, t->num_pages / 8 + 1);
    flashc_status status = FLASHC_OK;
    for (int64_t b = 0; b < p->batch && status == FLASHC_OK; b++) {
        const int64_t begin = p->positions[b], end = begin + flashc_append_rows(p, b);
        for (int64_t entry = begin / t->page_size; begin < end && entry * t->page_size < end; entry++) {
            const int64_t page = flashc_cache_page(t, b, entry);
            const unsigned char bit = (unsigned char)(1u << page % 8);
            if (seen[page / 8] & bit) {
                status = flashc_fail(FLASHC_ERR_ARGUMENT,
                                     "%s[%" PRId64 "][%" PRId64 "]: expected a page that no other entry has written "
                                     "in this call, found %" PRId64,
                                     name, b, entry, page);
                break;
            }
            seen[page / 8] |= bit;
        }
    }
    free(seen);
    return status;
}

flashc_status flashc_append_check(const flashc_append_params *p)
{
    flashc_status status = check_sizes(p);
    if (status == FLASHC_OK)
        status = check_new_rows(p);
    if (status == FLASHC_OK)
        status = check_tables(p);
    if (status == FLASHC_OK)
        status = check_tensors(p);
    if (status == FLASHC_OK)
        status = check_positions(p);
    if (status == FLASHC_OK && writes_cache(p) && p->block_table.pages)
        status = check_pages_once("block_table", &p->block_table, p);
    if (status == FLASHC_OK && writes_cache(p) && p->block_table_v.pages)
        status = check_pages_once("block_table_v", &p->block_table_v, p);
    if (status == FLASHC_OK && writes_cache(p))
        status = check_divisors("k_cache_scale", &p->k_cache_scale, &p->k_cache, &p->block_table, p);
    if (status == FLASHC_OK && writes_cache(p))
        status = check_divisors("v_cache_scale", &p->v_cache_scale, &p->v_cache,
                                flashc_cache_table_v(&p->block_table, &p->block_table_v), p);
    return status;
}
