/* The append call: new rows of K and V into a cache, and the queries of the same positions, turned and converted row
 * by row. */
#include "cache/append_check.h"
#include "cache/quantise.h"
#include "cache/rotary.h"
#include "cache/rows.h"
#include "cpu.h"
#include "params.h"

#include <inttypes.h>
#include <stdlib.h>

/* Rows whose angles stay in L1 for all heads: 32 rows of 64 pairs are 16 KiB. */
enum { ROWS_TOGETHER = 32 };

/* The struct as it was in the first release, whose last field this is: nothing shorter can have been compiled. */
enum { FIRST_STRUCT_SIZE = offsetof(flashc_append_params, rotary_positions) + sizeof(void *) };
_Static_assert(sizeof(void *) != 8 || FIRST_STRUCT_SIZE == 696, "fields are added at the end");

/* Where the rows of k, v or q come from, where they go, and what becomes of them on the way. */
typedef struct transfer {
    const flashc_tensor *from;
    flashc_cache_rows to;
    bool to_cache; /* rows go to their position; else (q) they keep their place */
    bool rotated;
    int64_t heads, cols;
    float *row; /* where a row is made that then becomes codes */
} transfer;

static flashc_row row_at(const flashc_tensor *t, void *data)
{
    return (flashc_row){.data = data, .dtype = t->dtype, .stride = t->stride[3]};
}

/* New row i of sequence b. */
static void write_row(const flashc_append_params *p, const transfer *s, int64_t b, int64_t head, int64_t i)
{
    const int64_t element = p->cu_seqlens_new ? 0 : b, row = flashc_append_first_row(p, b) + i;
    const flashc_row src = row_at(s->from, flashc_element(s->from, element, head, row, 0));
    const flashc_row to =
        row_at(&s->to.tensor, s->to_cache ? flashc_cache_row(&s->to, b, head, p->positions[b] + i)
                                          : flashc_element(&s->to.tensor, element, head, row, 0));
    const bool quantised = flashc_dtype_is_quantised(to.dtype);
    const flashc_row dst = quantised ? (flashc_row){.data = s->row, .dtype = FLASHC_F32, .stride = 1} : to;
    const int64_t dim = s->rotated ? p->rotary_dim : 0;
    if (dim > 0) {
        const int64_t position = flashc_append_rotary_position(p, b) + i;
        const flashc_rotation rotation = {
            .cos = row_at(&p->rotary_cos, flashc_element(&p->rotary_cos, 0, 0, position, 0)),
            .sin = row_at(&p->rotary_sin, flashc_element(&p->rotary_sin, 0, 0, position, 0)),
            .dim = dim,
            .interleaved = p->rotary_interleaved != 0,
        };
        flashc_row_rotate(dst, src, &rotation);
    }
    flashc_row_copy(dst, src, dim, s->cols);
    if (quantised)
        flashc_row_quantise(to, s->row, s->cols,
                            s->to.scale.data ? flashc_cache_scale(&s->to, b, head, p->positions[b] + i) : NULL);
}

static void write_sequence(const flashc_append_params *p, const transfer *s, int64_t b)
{
    /* Neighbours in memory follow each other: 7 ms, against 30 in the other order, for 128 MiB of f32 in which a
     * row has its heads side by side. */
    const bool heads_together = flashc_magnitude(s->from->stride[1]) < flashc_magnitude(s->from->stride[2]);
    const int64_t rows = flashc_append_rows(p, b);
    for (int64_t first = 0; first < rows; first += ROWS_TOGETHER) {
        const int64_t n = flashc_min(ROWS_TOGETHER, rows - first);
        for (int64_t j = 0; j < n * s->heads; j++)
            if (heads_together)
                write_row(p, s, b, j % s->heads, first + j / s->heads);
            else
                write_row(p, s, b, j / n, first + j % n);
    }
}

void flashc_append_params_init(flashc_append_params *params, size_t struct_size)
{
    const flashc_append_params defaults = {
        .struct_size = struct_size, .batch = 1, .num_heads = 1, .num_heads_k = 1};
    flashc_params_fill(params, struct_size, &defaults, sizeof defaults);
}

flashc_status flashc_append(const flashc_append_params *params)
{
    flashc_append_params p;
    FLASHC_IN_DEFAULT_FLOAT_MODE; /* for the checks too: of scales, which may be subnormal */
    flashc_append_params_init(&p, sizeof p);
    flashc_status status = flashc_params_read(&p, sizeof p, params, FIRST_STRUCT_SIZE, "flashc_append_params_init");
    if (status == FLASHC_OK)
        status = flashc_append_check(&p);
    if (status != FLASHC_OK)
        return status;
    float *row = NULL;
    if (flashc_dtype_is_quantised(p.k_cache.dtype) || flashc_dtype_is_quantised(p.v_cache.dtype)) {
        row = malloc((size_t)flashc_max(p.head_dim, p.head_dim_v) * sizeof *row);
        if (!row)
            return flashc_fail(FLASHC_ERR_MEMORY, "head_dim: could not allocate a row of %" PRId64 " columns",
                               flashc_max(p.head_dim, p.head_dim_v));
    }
    const flashc_block_table *table_v = flashc_cache_table_v(&p.block_table, &p.block_table_v);
    const transfer transfers[] = {
        {.from = &p.k,
         .to = {.tensor = p.k_cache, .table = p.block_table, .scale = p.k_cache_scale},
         .to_cache = true,
         .rotated = true,
         .heads = p.num_heads_k,
         .cols = p.head_dim,
         .row = row},
        {.from = &p.v,
         .to = {.tensor = p.v_cache, .table = *table_v, .scale = p.v_cache_scale},
         .to_cache = true,
         .heads = p.num_heads_k,
         .cols = p.head_dim_v,
         .row = row},
        {.from = &p.q, .to = {.tensor = p.q_out}, .rotated = true, .heads = p.num_heads, .cols = p.head_dim},
    };
    for (int64_t b = 0; b < p.batch; b++)
        for (size_t i = 0; i < sizeof transfers / sizeof transfers[0]; i++)
            if (transfers[i].to.tensor.data && transfers[i].cols > 0)
                write_sequence(&p, &transfers[i], b);
    free(row);
    return FLASHC_OK;
}
