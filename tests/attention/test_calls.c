/* Unusual but valid calls, and the progress callback. */
#include "support/cmocka.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

static const problem_shape usual = {2, 4, 2, 9, 11, 8, 6};
static const problem_shape large = {2, 4, 2, 400, 500, 32, 32};
static const problem_shape long_keys = {2, 2, 1, 3, 60000, 8, 32};

/* init writes struct_size bytes and no more; a later, longer struct has its tail cleared. */
static void test_init_respects_struct_size(void **state)
{
    (void)state;
    union {
        flashc_attention_params params;
        unsigned char bytes[sizeof(flashc_attention_params) + 64];
    } u;
    memset(&u, 0x5a, sizeof u);
    flashc_attention_params_init(&u.params, offsetof(flashc_attention_params, kernel));
    for (size_t i = offsetof(flashc_attention_params, kernel); i < sizeof u; i++)
        assert_int_equal(u.bytes[i], 0x5a);
    assert_int_equal(u.params.batch, 1);
    memset(&u, 0x5a, sizeof u);
    flashc_attention_params_init(&u.params, sizeof u.params);
    for (size_t i = sizeof u.params; i < sizeof u; i++)
        assert_int_equal(u.bytes[i], 0x5a);
    flashc_attention_params_init(&u.params, sizeof u);
    for (size_t i = sizeof u.params; i < sizeof u; i++)
        assert_int_equal(u.bytes[i], 0);

    assert_int_equal(u.params.struct_size, sizeof u);
    assert_int_equal(u.params.batch, 1);
    assert_int_equal(u.params.num_heads, 1);
    assert_int_equal(u.params.num_heads_k, 1);
    assert_true(u.params.softmax_scale == FLASHC_SCALE_DEFAULT);
    assert_int_equal(u.params.causal, 0);
    assert_int_equal(u.params.alignment, FLASHC_ALIGN_UNSET);
    assert_null(u.params.kernel);
    assert_null(u.params.workspace);
    assert_null(u.params.mask.data);
    assert_null(u.params.lse.data);
}

/* A caller of a later version may run on this one as long as it does not use what this one lacks. */
static void test_struct_of_a_later_version(void **state)
{
    (void)state;
    problem p;
    char message[256];
    union {
        flashc_attention_params params;
        unsigned char bytes[sizeof(flashc_attention_params) + 64];
    } u;
    memset(&u, 0, sizeof u);
    problem_plain(&p, &usual, FLASHC_F32, 5);
    u.params = p.params;
    u.params.struct_size = sizeof u;
    for (size_t i = sizeof u.params; i < sizeof u; i += 9) {
        u.bytes[i] = 1;
        assert_int_not_equal(flashc_attention_fwd(&u.params), FLASHC_OK);
        assert_non_null(strstr(flashc_last_error(), "struct_size"));
        u.bytes[i] = 0;
    }
    assert_true(problem_unharmed(&p, true, message, sizeof message));
    assert_int_equal(flashc_attention_fwd(&u.params), FLASHC_OK);
    assert_false(problem_unharmed(&p, true, message, sizeof message)); /* it did write now */
    problem_free(&p);
}

/* Strides of packed arrays; sizes whose product is beyond int64 give strides that no call accepts. */
static void test_packed_views(void **state)
{
    (void)state;
    flashc_tensor bhsd = flashc_tensor_bhsd(NULL, FLASHC_F32, 3, 5, 7);
    flashc_tensor bshd = flashc_tensor_bshd(NULL, FLASHC_F32, 3, 5, 7);
    static const int64_t bhsd_stride[4] = {105, 35, 7, 1}, bshd_stride[4] = {105, 7, 21, 1};
    assert_memory_equal(bhsd.stride, bhsd_stride, sizeof bhsd_stride);
    assert_memory_equal(bshd.stride, bshd_stride, sizeof bshd_stride);

    problem p;
    const int64_t large_size = (int64_t)1 << 22, size = (int64_t)1 << 21;
    problem_plain(&p, &usual, FLASHC_F32, 5);
    p.params.k = flashc_tensor_bhsd(p.params.k.data, FLASHC_F32, large_size, size, size); /* 2^64 elements */
    assert_int_equal(flashc_attention_fwd(&p.params), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "k.stride[0]"));
    p.params.k = flashc_tensor_bshd(p.params.k.data, FLASHC_F32, size, large_size, size);
    assert_int_equal(flashc_attention_fwd(&p.params), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "k.stride[0]"));
    problem_free(&p);
}

/* Absent outputs, alignment without causal, tensors of nothing without data. */
static void test_optional_arguments(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &usual, FLASHC_F32, 5);
    p.params.lse.data = NULL;
    p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    run_and_check(&p);
    p.params.seqlen_k = 0;
    p.params.k.data = p.params.v.data = NULL;
    run_and_check(&p);
    p.params.seqlen_q = 0;
    p.params.q.data = p.params.o.data = NULL;
    assert_int_equal(flashc_attention_fwd(&p.params), FLASHC_OK);
    p.params.k.dtype = p.params.v.dtype = FLASHC_I8; /* whose scales are nowhere, too */
    assert_int_equal(flashc_attention_fwd(&p.params), FLASHC_OK);
    problem_free(&p);
}

/* Without columns v and o are never read or written: neither data nor strides need be anything. (The
 * addresses of their rows must not be computed from them; the sanitizers see that.) */
static void no_columns(const char *kernel)
{
    problem_shape shape = shape_for(kernel, large);
    shape.head_dim_v = 0;
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 5);
    p.params.kernel = kernel;
    p.params.v.data = p.params.o.data = NULL;
    for (int variant = 0; variant < 2; variant++) {
        for (int axis = 0; axis < 4; axis++)
            p.params.v.stride[axis] = p.params.o.stride[axis] = variant == 0 ? 32 : INT64_MAX;
        run_problem(&p);
        assert_true(isfinite(test_get(&p.params.lse, 1, 3, shape.seqlen_q - 1, 0)));
    }
    problem_free(&p);
}

/* The default number of threads grows with the work and is never beyond what the system has; no count of
 * operations is too large for it. */
static void test_default_threads(void **state)
{
    (void)state;
    flashc_system_info info = {.struct_size = sizeof info};
    assert_int_equal(flashc_system_get(&info), FLASHC_OK);
    flashc_attention_params params;
    flashc_attention_params_init(&params, sizeof params);
    params.seqlen_q = (int64_t)1 << 40;
    params.head_dim = params.head_dim_v = 1;
    params.q = params.k = params.v = (flashc_tensor){.data = (void *)((uintptr_t)1 << 40), .dtype = FLASHC_F32};
    params.o = flashc_tensor_bhsd((void *)((uintptr_t)2 << 40), FLASHC_F32, 1, params.seqlen_q, 1);
    for (int shift = 0; shift <= 48; shift += 16) {
        flashc_explanation plan = {.struct_size = sizeof plan};
        params.seqlen_k = (int64_t)1 << shift;
        assert_int_equal(flashc_explain(&params, &plan), FLASHC_OK);
        assert_int_equal(plan.num_threads, info.default_threads);
    }
    params.seqlen_q = params.seqlen_k = 300; /* several items, but little to do */
    flashc_explanation plan = {.struct_size = sizeof plan};
    assert_int_equal(flashc_explain(&params, &plan), FLASHC_OK);
    assert_int_equal(plan.num_threads, 1);
}

/* Asking for more threads than any machine has is no way to crash: the team stays within bounds. */
static void test_absurd_thread_counts(void **state)
{
    (void)state;
    flashc_attention_params params;
    flashc_attention_params_init(&params, sizeof params);
    params.seqlen_q = (int64_t)1 << 40;
    params.seqlen_k = params.head_dim = params.head_dim_v = 1;
    params.q = params.k = params.v = (flashc_tensor){.data = (void *)((uintptr_t)1 << 40), .dtype = FLASHC_F32};
    params.o = flashc_tensor_bhsd((void *)((uintptr_t)2 << 40), FLASHC_F32, 1, params.seqlen_q, 1);
    static const int counts[] = {1025, 100000, INT_MAX};
    for (int n = 0; n < 3; n++) {
        flashc_explanation plan = {.struct_size = sizeof plan};
        params.num_threads = counts[n];
        assert_int_equal(flashc_explain(&params, &plan), FLASHC_OK);
        assert_true(plan.num_threads <= 1024);
    }
}

/* What a callback has seen. */
typedef struct progress_log {
    pthread_t caller;
    int64_t calls, last_done, total, stop_after;
    bool wrong_thread, backwards, beyond;
} progress_log;

static int log_progress(void *user_data, int64_t done, int64_t total)
{
    progress_log *log = user_data;
    log->wrong_thread |= !pthread_equal(log->caller, pthread_self());
    log->backwards |= done < log->last_done || (log->calls > 0 && total != log->total);
    log->beyond |= done < 0 || done > total;
    log->last_done = done;
    log->total = total;
    return ++log->calls > log->stop_after;
}

static void check_log(const char *kernel, const progress_log *log)
{
    if (log->wrong_thread || log->backwards || log->beyond)
        fail_msg("%s: progress%s%s%s", kernel, log->wrong_thread ? " on another thread" : "",
                 log->backwards ? " backwards" : "", log->beyond ? " beyond the total" : "");
}

/* Every row is either complete or untouched after a cancel, for any moment of it. */
static void check_cancel(const char *kernel, const problem_shape *shape)
{
    problem done, cancelled;
    problem_plain(&done, shape, FLASHC_F32, 5);
    problem_plain(&cancelled, shape, FLASHC_F32, 5);
    done.params.kernel = cancelled.params.kernel = kernel;
    for (int threads = 1; threads <= 3; threads++) {
        done.params.num_threads = cancelled.params.num_threads = threads;
        progress_log log = {.caller = pthread_self(), .stop_after = INT64_MAX};
        done.params.progress = cancelled.params.progress = log_progress;
        done.params.progress_user_data = &log;
        run_problem(&done);
        check_log(kernel, &log);
        assert_true(log.calls > 0); /* also where the other threads did all the work */
        assert_int_equal(log.last_done, log.total);
        assert_int_equal(log.total, plan_of(&done).num_items);
        for (int64_t stop = 0; stop < 4; stop++) {
            progress_log stopped = {.caller = pthread_self(), .stop_after = stop};
            cancelled.params.progress_user_data = &stopped;
            problem_snapshot(&cancelled);
            uint32_t untouched = test_get_bits(&cancelled.params.o, 0, 0, 0, 0);
            flashc_status status = flashc_attention_fwd(&cancelled.params);
            check_log(kernel, &stopped);
            /* With several threads the callback may not have been called often enough. */
            assert_int_equal(status, stopped.calls > stop ? FLASHC_ERR_CANCELLED : FLASHC_OK);
            assert_true(threads > 1 || stopped.calls == (stop + 1 < log.calls ? stop + 1 : log.calls));
            if (status == FLASHC_ERR_CANCELLED)
                assert_non_null(strstr(flashc_last_error(), "progress"));
            const int64_t heads = shape->num_heads, queries = shape->seqlen_q;
            for (int64_t row = 0; row < 2 * heads * queries; row++) {
                int64_t i = row % queries, h = row / queries % heads, b = row / queries / heads, same = 0, kept = 0;
                for (int64_t c = 0; c < 32; c++) {
                    uint32_t bits = test_get_bits(&cancelled.params.o, b, h, i, c);
                    same += bits == test_get_bits(&done.params.o, b, h, i, c);
                    kept += bits == untouched;
                }
                if (same != 32 && kept != 32)
                    fail_msg("%s: after a cancel row %lld is neither complete nor untouched", kernel, (long long)row);
            }
        }
    }
    problem_free(&done);
    problem_free(&cancelled);
}

static void cancel(const char *kernel)
{
    const problem_shape shapes[] = {shape_for(kernel, large), shape_for(kernel, long_keys)};
    for (int n = 0; n < 2; n++)
        check_cancel(kernel, &shapes[n]);
}

/* A chunk for a state that takes several passes: what is left of a piece, runs of whole pieces, and a rest. */
static void progress_of_a_chunk(const char *kernel)
{
    const int64_t piece = kernel_piece(kernel, 24, 20), first = piece + piece / 2;
    problem p = problem_on(kernel, (problem_shape){1, 2, 2, 1, 9 * piece + 77, 24, 20}, FLASHC_F32, 5);
    for (int threads = 1; threads <= 3; threads++) {
        test_stream s = test_stream_begin(&p.params);
        p.params.num_threads = threads;
        for (int chunk = 0; chunk < 2; chunk++) {
            progress_log log = {.caller = pthread_self(), .stop_after = INT64_MAX};
            p.params.progress = log_progress;
            p.params.progress_user_data = &log;
            test_stream_chunk(&s, &p.params, chunk * first, chunk == 0 ? first : p.params.seqlen_k - first);
            check_log(kernel, &log);
            assert_true(log.calls > 0 && log.last_done == log.total);
        }
        test_stream_free(&s);
    }
    problem_free(&p);
}

int main(void)
{
    static kernel_check checks[] = {{no_columns}, {cancel}, {progress_of_a_chunk}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_respects_struct_size),
        cmocka_unit_test(test_struct_of_a_later_version),
        cmocka_unit_test(test_packed_views),
        cmocka_unit_test(test_optional_arguments),
        cmocka_unit_test(test_default_threads),
        cmocka_unit_test(test_absurd_thread_counts),
        {"no_columns_of_v", test_on_kernels, NULL, NULL, &checks[0]},
        {"progress_and_cancel", test_on_kernels, NULL, NULL, &checks[1]},
        {"progress_of_a_chunk", test_on_kernels, NULL, NULL, &checks[2]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
