/* Memory: every allocation failing in turn, the size of the workspace. The
 * linker sends this program's and the library's allocations through the __wrap_ functions below. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/features.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const problem_shape usual = {2, 4, 2, 70, 270, 64, 48};

static atomic_bool counting;
static atomic_long allocations, failing; /* number failing (from 0) of the allocations fails */

static size_t allocated; /* bytes asked for while counting */

static bool is_to_fail(size_t size)
{
    allocated += atomic_load(&counting) ? size : 0;
    return atomic_load(&counting) && atomic_fetch_add(&allocations, 1) == atomic_load(&failing);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
    return is_to_fail(size) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return is_to_fail(count * size) ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return is_to_fail(size) ? NULL : __real_realloc(memory, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return is_to_fail(size) ? NULL : __real_aligned_alloc(alignment, size);
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t size)
{
    return is_to_fail(size) ? ENOMEM : __real_posix_memalign(memory, alignment, size);
}

/* The call with allocation number fail failing (-1: none). *made: how many it asked for. */
static flashc_status call_failing(const problem *p, long fail, long *made)
{
    atomic_store(&allocations, 0);
    atomic_store(&failing, fail);
    atomic_store(&counting, true);
    flashc_status status = flashc_attention_fwd(&p->params);
    atomic_store(&counting, false);
    *made = atomic_load(&allocations);
    return status;
}

static void no_memory(const char *kernel)
{
    char message[256];
    for (int threads = 1; threads <= 2; threads++) {
        problem p;
        long made, total;
        p = problem_on(kernel, usual, FLASHC_BF16, 41);
        p.params.num_threads = threads;
        flashc_status status = call_failing(&p, -1, &total);
        assert_int_equal(status, FLASHC_OK);
        assert_int_equal(total, 1); /* flashc.h: one internal allocation */
        for (long fail = 0; fail < total; fail++) {
            problem_snapshot(&p);
            status = call_failing(&p, fail, &made);
            if (status != FLASHC_ERR_MEMORY || flashc_last_error()[0] == '\0')
                fail_msg("%s: allocation %ld fails: %s, \"%s\"", kernel, fail, flashc_status_string(status),
                         flashc_last_error());
            if (!problem_unharmed(&p, true, message, sizeof message))
                fail_msg("%s: allocation %ld fails: %s", kernel, fail, message);
        }
        run_and_check(&p);

        size_t size = 0;
        assert_int_equal(flashc_attention_workspace_size(&p.params, &size), FLASHC_OK);
        p.params.workspace = aligned_alloc(64, (size + 63) / 64 * 64);
        p.params.workspace_size = size;
        assert_non_null(p.params.workspace);
        assert_int_equal(call_failing(&p, 0, &made), FLASHC_OK);
        assert_int_equal(made, 0);
        free(p.params.workspace);
        problem_free(&p);
    }
}

/* Takes a chunk while allocation number `fail` fails; *made: how many there were. */
static flashc_status accumulate_failing(flashc_attention_state *s, const flashc_attention_params *p, long fail,
                                        long *made)
{
    atomic_store(&allocations, 0);
    atomic_store(&failing, fail);
    atomic_store(&counting, true);
    flashc_status status = flashc_attention_accumulate(s, p);
    atomic_store(&counting, false);
    *made = atomic_load(&allocations);
    return status;
}

/* A chunk makes one allocation however many passes it takes, or none in the caller's workspace; where that cannot be
 * had or is not large enough the state is as it was. */
static void chunk_memory(const char *kernel)
{
    const problem_shape shape = {1, 2, 2, 1, 9 * kernel_piece(kernel, 24, 20), 24, 20};
    problem p = problem_on(kernel, shape, FLASHC_F32, 43);
    p.params.num_threads = 2;
    run_problem(&p);
    problem streamed = problem_twin(&p);
    test_stream s = test_stream_begin(&p.params);
    flashc_attention_params chunk = p.params;
    long made;
    size_t size = 0;
    assert_int_equal(accumulate_failing(&s.state, &chunk, 0, &made), FLASHC_ERR_MEMORY);
    assert_int_equal(made, 1);
    assert_true(s.state.n_nodes == 0 && s.state.next_key == 0);
    assert_int_equal(accumulate_failing(&s.state, &chunk, 1, &made), FLASHC_OK);
    assert_int_equal(made, 1);
    expect_ok(flashc_attention_finish(&s.state, &streamed.params));
    assert_same_bits(&p, &streamed, "one call and one chunk");

    expect_ok(flashc_attention_state_clear(&s.state));
    expect_ok(flashc_attention_accumulate_workspace_size(&s.state, &chunk, &size));
    expect_argument_error(flashc_attention_accumulate_workspace_size(&s.state, &chunk, NULL),
                          "size: expected a pointer, found NULL");
    char *memory = aligned_alloc(64, (size + 127) / 64 * 64);
    assert_non_null(memory);
    chunk.workspace = memory;
    chunk.workspace_size = size - 1;
    assert_int_equal(accumulate_failing(&s.state, &chunk, 0, &made), FLASHC_ERR_WORKSPACE);
    assert_non_null(strstr(flashc_last_error(), "workspace_size: expected at least"));
    chunk.workspace = memory + 4;
    assert_int_equal(accumulate_failing(&s.state, &chunk, 0, &made), FLASHC_ERR_WORKSPACE);
    assert_true(s.state.n_nodes == 0 && s.state.next_key == 0);
    chunk.workspace = memory;
    chunk.workspace_size = size;
    assert_int_equal(accumulate_failing(&s.state, &chunk, 0, &made), FLASHC_OK);
    assert_int_equal(made, 0);
    problem_snapshot(&streamed);
    expect_ok(flashc_attention_finish(&s.state, &streamed.params));
    assert_same_bits(&p, &streamed, "one call and one chunk in a workspace");
    free(memory);
    test_stream_free(&s);
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* Grows with tile and threads, never with seqlen (a short call, whose items are not all filled, may do
 * with less); below 1 MiB per thread at head_dim 128. decode: one query, and only the keys grow. */
static void check_workspace(const char *kernel, bool decode)
{
    static const int64_t prefill_lengths[] = {1024, 8192, 65536}, decode_lengths[] = {1024, 32768, 1048576};
    const int64_t *lengths = decode ? decode_lengths : prefill_lengths;
    for (flashc_dtype dtype = FLASHC_F32; dtype <= FLASHC_BF16; dtype++) {
        for (int variant = 0; variant < 8; variant++) {
            for (int threads = 1; threads <= 4; threads += 3) {
                size_t size[3];
                for (int n = 0; n < 3; n++) {
                    int64_t length = lengths[n];
                    flashc_attention_params p;
                    flashc_attention_params_init(&p, sizeof p);
                    p.kernel = kernel;
                    p.num_threads = threads;
                    p.num_heads = 8;
                    p.num_heads_k = variant & 4 ? 2 : 8;
                    p.seqlen_k = length;
                    p.seqlen_q = decode ? 1 : length;
                    p.head_dim = p.head_dim_v = 128;
                    p.causal = variant & 1;
                    p.alignment = decode ? FLASHC_ALIGN_BOTTOM_RIGHT : FLASHC_ALIGN_TOP_LEFT;
                    /* Addresses where nothing is: no data is read. */
                    p.q = flashc_tensor_bhsd((void *)((uintptr_t)1 << 40), dtype, 8, p.seqlen_q, 128);
                    p.k = flashc_tensor_bhsd((void *)((uintptr_t)2 << 40), dtype, p.num_heads_k, length, 128);
                    p.v = flashc_tensor_bhsd((void *)((uintptr_t)3 << 40), dtype, p.num_heads_k, length, 128);
                    p.o = flashc_tensor_bhsd((void *)((uintptr_t)4 << 40), dtype, 8, p.seqlen_q, 128);
                    if (variant & 2) {
                        p.mask = flashc_tensor_bhsd((void *)((uintptr_t)5 << 40), FLASHC_BOOL, 8, p.seqlen_q, length);
                        p.bias = flashc_tensor_bhsd((void *)((uintptr_t)6 << 40), dtype, 8, p.seqlen_q, length);
                    }
                    expect_ok(flashc_attention_workspace_size(&p, &size[n]));
                }
                if (size[0] > size[1] || size[1] != size[2] || size[2] > (size_t)threads << 20)
                    fail_msg("%s, %s, variant %d, %s, %d threads: workspace of %zu bytes at 1k, %zu later, %zu at last",
                             kernel, decode ? "decode" : "prefill", variant, flashc_dtype_name(dtype), threads, size[0],
                             size[1], size[2]);
            }
        }
    }
}

static void workspace(const char *kernel)
{
    if (kernel_most_rows(kernel) == INT64_MAX) /* of any number of rows, not of few */
        check_workspace(kernel, false);
    check_workspace(kernel, true);
}

/* Sizes whose scratch for one thread can be counted, but not for all of them. */
static void workspace_beyond_the_address_space(const char *kernel)
{
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    p.kernel = kernel;
    const int64_t most_rows = kernel_most_rows(kernel);
    p.seqlen_q = most_rows < (int64_t)1 << 40 ? most_rows : (int64_t)1 << 40;
    p.seqlen_k = p.head_dim_v = 1;
    p.head_dim = (int64_t)1 << 48;
    p.q = p.k = p.v = (flashc_tensor){.data = (void *)((uintptr_t)1 << 40), .dtype = FLASHC_F32};
    p.o = flashc_tensor_bhsd((void *)((uintptr_t)2 << 40), FLASHC_F32, 1, p.seqlen_q, 1);
    for (p.num_threads = 1; p.num_threads <= 1 << 20; p.num_threads *= 2) {
        size_t size = 0;
        flashc_status status = flashc_attention_workspace_size(&p, &size);
        if (status != FLASHC_ERR_MEMORY && (status != FLASHC_OK || size < (size_t)p.head_dim))
            fail_msg("%s, %d threads: %s, workspace of %zu bytes", kernel, p.num_threads, flashc_status_string(status),
                     size);
    }
    assert_int_equal(flashc_attention_fwd(&p), FLASHC_ERR_MEMORY);
    assert_non_null(strstr(flashc_last_error(), "workspace"));
}

/* No feature converts, packs or gathers a whole K or V: the workspace is the same at two lengths, and the call asks for
 * nothing else. */
static void test_workspace_of_every_feature(void **state)
{
    (void)state;
    const char *names[MAX_KERNELS];
    const int kernels = runnable_kernels(names);
    for (feature f = 0; f < FEATURES; f++)
        for (int l = 1; l < feature_count(f) && f != FEATURE_CALL; l++) {
            int level[FEATURES] = {[FEATURE_ALIGNMENT] = 1};
            level[f] = l;
            size_t size[MAX_KERNELS][2];
            for (int longer = 0; longer < 2; longer++) {
                problem p;
                form_kind kind;
                test_form form;
                test_rng rng = {1};
                features_problem(&p, &kind, level, 4, true, longer ? 3000 : 1100, 1);
                form_make(&form, &p.params, &kind, &rng);
                form.params.num_threads = 1;
                for (int k = 0; k < kernels; k++) {
                    form.params.kernel = names[k];
                    if (flashc_attention_workspace_size(&form.params, &size[k][longer]) == FLASHC_ERR_UNSUPPORTED)
                        size[k][longer] = 0;
                    else if (longer && size[k][0] != size[k][1])
                        fail_msg("%s, %s: %s: a workspace of %zu bytes at 1,100 keys, %zu at 3,000", names[k],
                                 feature_table[f].name, feature_table[f].level[l], size[k][0], size[k][1]);
                }
                form.params.kernel = NULL;
                size_t workspace = 0;
                expect_ok(flashc_attention_workspace_size(&form.params, &workspace));
                allocated = 0;
                atomic_store(&failing, -1);
                atomic_store(&counting, true);
                const flashc_status status = flashc_attention_fwd(&form.params);
                atomic_store(&counting, false);
                expect_ok(status);
                if (allocated != workspace)
                    fail_msg("%s: %s: %zu bytes allocated, a workspace of %zu", feature_table[f].name,
                             feature_table[f].level[l], allocated, workspace);
                form_free(&form);
                problem_free(&p);
            }
        }
}

int main(void)
{
    static kernel_check checks[] = {{no_memory}, {workspace}, {workspace_beyond_the_address_space}, {chunk_memory}};
    const struct CMUnitTest tests[] = {
        {"every_allocation_may_fail", test_on_kernels, NULL, NULL, &checks[0]},
        {"workspace_does_not_grow_with_seqlen", test_on_kernels, NULL, NULL, &checks[1]},
        {"workspace_beyond_the_address_space", test_on_kernels, NULL, NULL, &checks[2]},
        {"memory_of_chunks", test_on_kernels, NULL, NULL, &checks[3]},
        cmocka_unit_test(test_workspace_of_every_feature),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
