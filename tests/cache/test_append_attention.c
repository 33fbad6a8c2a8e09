/* Sequences that grow chunk by chunk in pages, with rotary embedding and conversion to the cache's type, and attention
 * over the pages: the bits of attention over contiguous K and V that were made in one call. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/memory.h"
#include "support/values.h"

#include <string.h>

enum { BATCH = 3, HEADS_K = 2, GROUP = 3, HEADS = HEADS_K * GROUP, DIM = 32, LONGEST = 700, MAX_PAGES = 50 };

/* What one growing sequence holds; new rows in f32, as a model makes them. */
static const int64_t lengths[BATCH] = {700, 1, 333};
static float k[BATCH * LONGEST * HEADS_K * DIM], v[BATCH * LONGEST * HEADS_K * DIM], q[BATCH * HEADS * DIM];
static float cosines[LONGEST * DIM / 2], sines[LONGEST * DIM / 2];
static float whole_k[BATCH * LONGEST * HEADS_K * DIM], whole_v[BATCH * LONGEST * HEADS_K * DIM]; /* room for f32 */
static float o[2][BATCH * HEADS * DIM];
static int32_t pages[BATCH * MAX_PAGES];

static void fill(float *array, size_t count, test_rng *rng)
{
    for (size_t i = 0; i < count; i++)
        array[i] = (float)test_rng_normal(rng);
}

static flashc_append_params append_params(flashc_dtype dtype, bool interleaved)
{
    flashc_append_params p;
    flashc_append_params_init(&p, sizeof p);
    p.batch = BATCH;
    p.num_heads_k = HEADS_K;
    p.head_dim = p.head_dim_v = DIM;
    p.seqlen_cache = LONGEST;
    p.k = flashc_tensor_bshd(k, FLASHC_F32, HEADS_K, LONGEST, DIM);
    p.v = flashc_tensor_bshd(v, FLASHC_F32, HEADS_K, LONGEST, DIM);
    p.k_cache = flashc_tensor_bhsd(whole_k, dtype, HEADS_K, LONGEST, DIM);
    p.v_cache = flashc_tensor_bhsd(whole_v, dtype, HEADS_K, LONGEST, DIM);
    p.rotary_dim = DIM - 8;
    p.rotary_len = LONGEST;
    p.rotary_interleaved = interleaved;
    p.rotary_cos = flashc_tensor_bhsd(cosines, FLASHC_F32, 1, LONGEST, DIM / 2);
    p.rotary_sin = flashc_tensor_bhsd(sines, FLASHC_F32, 1, LONGEST, DIM / 2);
    return p;
}

/* All at once into whole_k and whole_v. */
static void append_whole(flashc_dtype dtype, bool interleaved)
{
    static const int64_t zeros[BATCH] = {0};
    flashc_append_params p = append_params(dtype, interleaved);
    p.seqlen_new = LONGEST;
    p.seqlens_new = lengths;
    p.positions = zeros;
    expect_ok(flashc_append(&p));
}

/* Chunks of up to 97 rows into pages, the sequences in turn. */
static void append_in_chunks(flashc_dtype dtype, bool interleaved, const flashc_block_table *table,
                             const flashc_tensor *k_pages, const flashc_tensor *v_pages, test_rng *rng)
{
    int64_t position[BATCH] = {0};
    for (int64_t b = 0, done = 0; done < BATCH; b = (b + 1) % BATCH) {
        const int64_t left = lengths[b] - position[b], most = test_rng_int(rng, 1, 97);
        if (left == 0)
            continue;
        flashc_append_params p = append_params(dtype, interleaved);
        p.batch = 1;
        p.seqlen_new = left < most ? left : most;
        p.k.data = test_at(&p.k, b, 0, position[b], 0);
        p.v.data = test_at(&p.v, b, 0, position[b], 0);
        p.k_cache = *k_pages;
        p.v_cache = *v_pages;
        p.block_table = *table;
        p.block_table.pages += b * table->stride[0];
        p.positions = &position[b];
        expect_ok(flashc_append(&p));
        position[b] += p.seqlen_new;
        done += position[b] == lengths[b];
    }
}

static void attend(const char *kernel, const flashc_append_params *from, const flashc_block_table *table,
                   const flashc_tensor *k_pages, const flashc_tensor *v_pages, float *out)
{
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    p.kernel = kernel;
    p.batch = BATCH;
    p.num_heads = HEADS;
    p.num_heads_k = HEADS_K;
    p.seqlen_q = 1;
    p.seqlen_k = LONGEST;
    p.head_dim = p.head_dim_v = DIM;
    p.q = flashc_tensor_bhsd(q, FLASHC_F32, HEADS, 1, DIM);
    p.o = flashc_tensor_bhsd(out, FLASHC_F32, HEADS, 1, DIM);
    p.seqlens_k = lengths;
    p.causal = 1;
    p.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    p.k = table ? *k_pages : from->k_cache;
    p.v = table ? *v_pages : from->v_cache;
    if (table)
        p.block_table = *table;
    expect_ok(flashc_attention_fwd(&p));
}

static void grow_and_attend(const char *kernel)
{
    static const int64_t page_sizes[] = {16, 21, 256};
    test_rng rng = {7};
    fill(k, sizeof k / sizeof k[0], &rng);
    fill(v, sizeof v / sizeof v[0], &rng);
    fill(q, sizeof q / sizeof q[0], &rng);
    fill(cosines, sizeof cosines / sizeof cosines[0], &rng);
    fill(sines, sizeof sines / sizeof sines[0], &rng);
    for (int n = 0; n < 9; n++) {
        const flashc_dtype dtype = (flashc_dtype)(FLASHC_F32 + n % 3);
        flashc_block_table table = {.pages = pages,
                                    .stride = {MAX_PAGES, 1},
                                    .max_pages = MAX_PAGES,
                                    .num_pages = BATCH * MAX_PAGES,
                                    .page_size = page_sizes[n / 3]};
        for (int32_t i = 0; i < BATCH * MAX_PAGES; i++)
            pages[i] = i * 37 % (BATCH * MAX_PAGES); /* 37 and the number of pages have no common factor */
        const size_t bytes = (size_t)(table.num_pages * table.page_size * HEADS_K * DIM) * flashc_dtype_size(dtype);
        guarded_buffer k_memory = guarded_alloc(bytes, false), v_memory = guarded_alloc(bytes, false);
        memset(k_memory.bytes, 0xff, bytes);
        memset(v_memory.bytes, 0xff, bytes);
        const flashc_tensor k_pages = flashc_tensor_bshd(k_memory.bytes, dtype, HEADS_K, table.page_size, DIM);
        const flashc_tensor v_pages = flashc_tensor_bhsd(v_memory.bytes, dtype, HEADS_K, table.page_size, DIM);
        append_whole(dtype, n % 2);
        append_in_chunks(dtype, n % 2, &table, &k_pages, &v_pages, &rng);
        const flashc_append_params whole = append_params(dtype, n % 2);
        attend(kernel, &whole, NULL, NULL, NULL, o[0]);
        attend(kernel, &whole, &table, &k_pages, &v_pages, o[1]);
        assert_memory_equal(o[0], o[1], sizeof o[0]);
        guarded_free(&k_memory);
        guarded_free(&v_memory);
    }
}

int main(void)
{
    static kernel_check check = {grow_and_attend};
    const struct CMUnitTest tests[] = {{"pages_that_grow", test_on_kernels, NULL, NULL, &check}};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
