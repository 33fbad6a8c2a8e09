/* flashc_append() on random calls, against float64: every new row where it belongs and nowhere else, turned and
 * rounded within the stated bound, kept bit for bit where it is neither turned nor converted. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/memory.h"
#include "support/values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 600, MAX_BATCH = 4, MAX_PAGES = 40 };

/* A tensor in guarded memory, and a copy of its bytes. */
typedef struct array {
    flashc_tensor view;
    int64_t size[4];
    guarded_buffer buffer;
    unsigned char *before;
} array;

typedef struct call {
    flashc_append_params params;
    array k, v, k_cache, v_cache, q, q_out, cos, sin;
    int32_t pages[MAX_BATCH * MAX_PAGES], pages_v[MAX_BATCH * MAX_PAGES];
    int64_t positions[MAX_BATCH], rotary_positions[MAX_BATCH], rows[MAX_BATCH], cu[MAX_BATCH + 1];
    bool ragged, packed, in_place;
    uint64_t seed;
} call;

static flashc_dtype random_dtype(test_rng *rng)
{
    return (flashc_dtype)test_rng_int(rng, FLASHC_F32, FLASHC_BF16);
}

/* In one of the common orders or any, with gaps or not. */
static array make(test_rng *rng, int64_t n0, int64_t n1, int64_t n2, int64_t n3)
{
    array a = {.size = {n0, n1, n2, n3}};
    int order[4] = {3, 2, 1, 0};
    for (int i = 3; i > 0 && test_rng_chance(rng, 30); i--) {
        const int other = (int)test_rng_int(rng, 0, i), axis = order[i];
        order[i] = order[other];
        order[other] = axis;
    }
    a.view.dtype = random_dtype(rng);
    int64_t span = 1;
    for (int i = 0; i < 4; i++) {
        a.view.stride[order[i]] = span;
        span *= a.size[order[i]] > 0 ? a.size[order[i]] : 1;
        span += test_rng_chance(rng, 20) ? test_rng_int(rng, 1, 3) : 0;
    }
    int64_t last = 0, elements = n0 * n1 * n2 * n3;
    for (int i = 0; i < 4 && elements > 0; i++)
        last += (a.size[i] - 1) * a.view.stride[i];
    const size_t bytes = elements > 0 ? (size_t)(last + 1) * flashc_dtype_size(a.view.dtype) : 0;
    a.buffer = guarded_alloc(bytes, test_rng_chance(rng, 30));
    memset(a.buffer.bytes, 0x7f, bytes);
    a.view.data = a.buffer.bytes;
    for (int64_t i = 0; i < elements; i++)
        test_set(&a.view, i / n3 / n2 / n1, i / n3 / n2 % n1, i / n3 % n2, i % n3, test_rng_normal(rng));
    a.before = malloc(bytes + 1);
    memcpy(a.before, a.buffer.bytes, bytes);
    return a;
}

static void destroy(array *a)
{
    guarded_free(&a->buffer);
    free(a->before);
}

/* A view of what the tensor held before the call. */
static flashc_tensor old_view(const array *a)
{
    flashc_tensor view = a->view;
    view.data = a->before;
    return view;
}

/* Pages for the entries of all sequences, no two alike; entries that no length reaches are no pages at all. */
static flashc_block_table random_table(call *c, int32_t *pages, test_rng *rng)
{
    const int64_t batch = c->params.batch;
    flashc_block_table t = {.pages = pages, .page_size = test_rng_int(rng, 1, 17), .max_pages = 1};
    int64_t needed = 0;
    for (int64_t b = 0; b < batch; b++) {
        const int64_t n = (c->positions[b] + c->rows[b] + t.page_size - 1) / t.page_size;
        t.max_pages = n > t.max_pages ? n : t.max_pages;
        needed += n;
    }
    if (t.max_pages > MAX_PAGES) {
        t.page_size *= 8;
        needed = 0;
        t.max_pages = MAX_PAGES;
        for (int64_t b = 0; b < batch; b++)
            needed += (c->positions[b] + c->rows[b] + t.page_size - 1) / t.page_size;
    }
    t.num_pages = needed + test_rng_int(rng, 1, 3);
    const bool by_entry = test_rng_chance(rng, 30);
    t.stride[0] = by_entry ? 1 : t.max_pages;
    t.stride[1] = by_entry ? batch : 1;
    int32_t shuffled[MAX_BATCH * MAX_PAGES + 3];
    for (int32_t i = 0; i < t.num_pages; i++) {
        const int32_t j = (int32_t)test_rng_int(rng, 0, i);
        shuffled[i] = shuffled[j];
        shuffled[j] = i;
    }
    int32_t next = 0;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t e = 0; e < t.max_pages; e++) {
            const bool reached = e * t.page_size < c->positions[b] + c->rows[b];
            pages[b * t.stride[0] + e * t.stride[1]] = reached ? shuffled[next++] : -1 - (int32_t)e;
        }
    return t;
}

static array make_cache(call *c, const flashc_block_table *t, int64_t cols, test_rng *rng)
{
    const flashc_append_params *p = &c->params;
    return t->pages ? make(rng, t->num_pages, p->num_heads_k, t->page_size, cols)
                    : make(rng, p->batch, p->num_heads_k, p->seqlen_cache, cols);
}

static void random_rows(call *c, test_rng *rng)
{
    flashc_append_params *p = &c->params;
    p->seqlen_new = test_rng_chance(rng, 30) ? 1 : test_rng_int(rng, 0, 40);
    c->ragged = test_rng_chance(rng, 30);
    c->packed = !c->ragged && test_rng_chance(rng, 40);
    int64_t total = 0, longest = 0;
    for (int64_t b = 0; b < p->batch; b++) {
        c->rows[b] = c->ragged || c->packed ? test_rng_int(rng, 0, p->seqlen_new) : p->seqlen_new;
        c->positions[b] = test_rng_chance(rng, 30) ? 0 : test_rng_int(rng, 0, 90);
        c->rotary_positions[b] = test_rng_int(rng, 0, 5);
        c->cu[b] = total;
        total += c->rows[b];
        longest = c->positions[b] + c->rows[b] > longest ? c->positions[b] + c->rows[b] : longest;
    }
    c->cu[p->batch] = total;
    if (c->packed)
        p->seqlen_new = total;
    p->seqlen_cache = longest + test_rng_int(rng, 0, 2);
    p->positions = c->positions;
    p->seqlens_new = c->ragged ? c->rows : NULL;
    p->cu_seqlens_new = c->packed ? c->cu : NULL;
}

static void random_call(call *c, uint64_t seed)
{
    test_rng rng = {seed};
    memset(c, 0, sizeof *c);
    c->seed = seed;
    flashc_append_params *p = &c->params;
    flashc_append_params_init(p, sizeof *p);
    p->batch = test_rng_int(&rng, 0, 9) == 0 ? 0 : test_rng_int(&rng, 1, MAX_BATCH);
    p->num_heads_k = test_rng_int(&rng, 1, 3);
    p->num_heads = p->num_heads_k * test_rng_int(&rng, 1, 3);
    p->head_dim = test_rng_chance(&rng, 10) ? test_rng_int(&rng, 257, 600) : test_rng_int(&rng, 1, 80);
    p->head_dim_v = test_rng_chance(&rng, 20) ? test_rng_int(&rng, 0, 40) : p->head_dim;
    random_rows(c, &rng);
    if (test_rng_chance(&rng, 50))
        p->block_table = random_table(c, c->pages, &rng);
    if (p->block_table.pages && test_rng_chance(&rng, 30))
        p->block_table_v = random_table(c, c->pages_v, &rng);

    const int64_t sequences = c->packed ? 1 : p->batch;
    const flashc_block_table *table_v = p->block_table_v.pages ? &p->block_table_v : &p->block_table;
    if (test_rng_chance(&rng, 90)) {
        c->k = make(&rng, sequences, p->num_heads_k, p->seqlen_new, p->head_dim);
        c->k_cache = make_cache(c, &p->block_table, p->head_dim, &rng);
    }
    if (test_rng_chance(&rng, 90)) {
        c->v = make(&rng, sequences, p->num_heads_k, p->seqlen_new, p->head_dim_v);
        c->v_cache = make_cache(c, table_v, p->head_dim_v, &rng);
    }
    if (test_rng_chance(&rng, 70)) {
        c->q = make(&rng, sequences, p->num_heads, p->seqlen_new, p->head_dim);
        c->in_place = test_rng_chance(&rng, 40);
        if (!c->in_place)
            c->q_out = make(&rng, sequences, p->num_heads, p->seqlen_new, p->head_dim);
    }
    p->k = c->k.view;
    p->v = c->v.view;
    p->k_cache = c->k_cache.view;
    p->v_cache = c->v_cache.view;
    p->q = c->q.view;
    p->q_out = c->in_place ? c->q.view : c->q_out.view;
    if (p->head_dim > 1 && test_rng_chance(&rng, 70)) {
        p->rotary_dim = 2 * test_rng_int(&rng, 1, p->head_dim / 2);
        p->rotary_interleaved = test_rng_chance(&rng, 50);
        p->rotary_len = 140;
        c->cos = make(&rng, 1, 1, p->rotary_len, p->rotary_dim / 2);
        c->sin = make(&rng, 1, 1, p->rotary_len, p->rotary_dim / 2);
        p->rotary_cos = c->cos.view;
        p->rotary_sin = c->sin.view;
        p->rotary_positions = test_rng_chance(&rng, 30) ? c->rotary_positions : NULL;
    }
}

static void destroy_call(call *c)
{
    array *const arrays[] = {&c->k, &c->v, &c->k_cache, &c->v_cache, &c->q, &c->q_out, &c->cos, &c->sin};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        destroy(arrays[i]);
}

/* Row i of a sequence's new rows, of a head, and where it must lie. */
typedef struct new_row {
    int64_t b, h, i, at[3];
} new_row;

/* One new row: src as it was before the call; dst where it must be now. Restores dst's old bytes. */
static void check_row(const call *c, const array *from, array *to, const new_row *r, bool rotated, const char *name)
{
    const flashc_append_params *p = &c->params;
    const int64_t b = r->b, h = r->h, i = r->i, *at = r->at;
    const flashc_tensor src = old_view(from), old = old_view(to);
    const int64_t element = c->packed ? 0 : b, row = (c->packed ? c->cu[b] : 0) + i;
    const int64_t half = rotated ? p->rotary_dim / 2 : 0;
    const int64_t position = (p->rotary_positions ? p->rotary_positions[b] : c->positions[b]) + i;
    for (int64_t d = 0; d < to->size[3]; d++) {
        const double x = test_get(&src, element, h, row, d);
        const double found = test_get(&to->view, at[0], at[1], at[2], d);
        double exact = x, slack = 0;
        if (d < 2 * half) {
            const int64_t pair = p->rotary_interleaved ? d / 2 : d % half;
            const bool second = p->rotary_interleaved ? d % 2 == 1 : d >= half;
            const int64_t partner = p->rotary_interleaved ? d ^ 1 : second ? d - half : d + half;
            const double y = test_get(&src, element, h, row, partner);
            const double cosine = test_get(&c->cos.view, 0, 0, position, pair);
            const double sine = test_get(&c->sin.view, 0, 0, position, pair);
            exact = second ? x * cosine + y * sine : x * cosine - y * sine;
            slack = ldexp(fabs(x * cosine) + fabs(y * sine), -23) + test_half_ulp(to->view.dtype, exact) * 1.0001 +
                    ldexp(1.0, -149);
        } else {
            exact = test_decode(to->view.dtype, test_encode(to->view.dtype, x));
        }
        if (!(fabs(found - exact) <= slack))
            fail_msg("seed %llu: %s of sequence %lld, head %lld, new row %lld, column %lld: expected %.9g, found %.9g",
                     (unsigned long long)c->seed, name, (long long)b, (long long)h, (long long)i, (long long)d, exact,
                     found);
        memcpy(test_at(&old, at[0], at[1], at[2], d), test_at(&to->view, at[0], at[1], at[2], d),
               flashc_dtype_size(to->view.dtype));
    }
}

/* Where a new row lies in a cache, found without the library. */
static new_row place(const call *c, const flashc_block_table *t, int64_t b, int64_t h, int64_t i)
{
    const int64_t row = c->positions[b] + i;
    const int64_t page = t->pages ? t->pages[b * t->stride[0] + row / t->page_size * t->stride[1]] : b;
    return (new_row){b, h, i, {page, h, t->pages ? row % t->page_size : row}};
}

static void check_unchanged(const call *c, const array *a, const char *name)
{
    if (a->buffer.size > 0 && memcmp(a->before, a->buffer.bytes, a->buffer.size) != 0)
        fail_msg("seed %llu: %s changed where it must not", (unsigned long long)c->seed, name);
}

static void check_call(call *c)
{
    const flashc_append_params *p = &c->params;
    const flashc_block_table *table_v = p->block_table_v.pages ? &p->block_table_v : &p->block_table;
    array q_before = {0}; /* in place, the old queries are the source and are restored row by row */
    array *q_to = c->in_place ? &c->q : &c->q_out;
    if (c->in_place) {
        q_before = c->q;
        q_before.before = malloc(c->q.buffer.size + 1);
        memcpy(q_before.before, c->q.before, c->q.buffer.size);
    } else {
        q_before = c->q;
    }
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t i = 0; i < c->rows[b]; i++) {
            for (int64_t h = 0; h < p->num_heads_k; h++) {
                const new_row k = place(c, &p->block_table, b, h, i), v = place(c, table_v, b, h, i);
                if (c->k.buffer.map)
                    check_row(c, &c->k, &c->k_cache, &k, true, "k");
                if (c->v.buffer.map)
                    check_row(c, &c->v, &c->v_cache, &v, false, "v");
            }
            for (int64_t h = 0; h < p->num_heads && c->q.buffer.map; h++) {
                const new_row q = {b, h, i, {c->packed ? 0 : b, h, (c->packed ? c->cu[b] : 0) + i}};
                check_row(c, &q_before, q_to, &q, true, "q");
            }
        }
    if (c->in_place)
        free(q_before.before);
    check_unchanged(c, &c->k, "k");
    check_unchanged(c, &c->v, "v");
    check_unchanged(c, &c->k_cache, "k_cache");
    check_unchanged(c, &c->v_cache, "v_cache");
    check_unchanged(c, &c->q, "q");
    check_unchanged(c, &c->q_out, "q_out");
    check_unchanged(c, &c->cos, "rotary_cos");
    check_unchanged(c, &c->sin, "rotary_sin");
}

static void test_random_calls(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= COUNT; seed++) {
        call c;
        random_call(&c, seed);
        if (flashc_append(&c.params) != FLASHC_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, flashc_last_error());
        check_call(&c);
        destroy_call(&c);
    }
}

/* Two products that are no normal numbers lose up to half a step of those each. */
static void test_subnormal_products(void **state)
{
    (void)state;
    const float k[2] = {ldexpf(34, -149), -0.457436f}, cosine = 0.247519f, sine = ldexpf(-1984, -149);
    float cache[2];
    const int64_t position = 0;
    flashc_append_params p;
    flashc_append_params_init(&p, sizeof p);
    p.seqlen_new = p.seqlen_cache = 1;
    p.head_dim = p.head_dim_v = p.rotary_dim = 2;
    p.rotary_len = 1;
    p.k = flashc_tensor_bhsd(k, FLASHC_F32, 1, 1, 2);
    p.k_cache = flashc_tensor_bhsd(cache, FLASHC_F32, 1, 1, 2);
    p.rotary_cos = flashc_tensor_bhsd(&cosine, FLASHC_F32, 1, 1, 1);
    p.rotary_sin = flashc_tensor_bhsd(&sine, FLASHC_F32, 1, 1, 1);
    p.positions = &position;
    expect_ok(flashc_append(&p));
    const double x = (double)k[0] * (double)cosine, y = (double)k[1] * (double)sine, step = ldexp(1.0, -149);
    const double error = fabs((double)cache[0] - (x - y));
    assert_true(error > step * 0.5 && error <= step + ldexp(fabs(x) + fabs(y), -23));
}

/* -0, NaN payloads and subnormals go through where nothing is computed. */
static void test_bits_are_kept(void **state)
{
    (void)state;
    const uint32_t bits[4] = {0x80000000u, 0x7fc01234u, 0x00000001u, 0x7f800001u};
    float k[4], cache[4] = {0};
    memcpy(k, bits, sizeof k);
    flashc_append_params p;
    flashc_append_params_init(&p, sizeof p);
    const int64_t position = 0;
    p.seqlen_new = p.seqlen_cache = 1;
    p.head_dim = p.head_dim_v = 4;
    p.k = flashc_tensor_bhsd(k, FLASHC_F32, 1, 1, 4);
    p.k_cache = flashc_tensor_bhsd(cache, FLASHC_F32, 1, 1, 4);
    p.positions = &position;
    expect_ok(flashc_append(&p));
    assert_memory_equal(cache, bits, sizeof bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_calls), cmocka_unit_test(test_subnormal_products),
                                       cmocka_unit_test(test_bits_are_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
