#include "support/stream.h"

#include "support/cmocka.h"
#include "support/expect.h"
#include "support/values.h"

#include <stdlib.h>
#include <string.h>

static void allocate(test_stream *s)
{
    const size_t rows = (size_t)(s->state.levels * s->state.rows) * sizeof(float);
    s->array[0] = guarded_alloc(rows, false);
    s->array[1] = guarded_alloc(rows, false);
    s->array[2] = guarded_alloc(rows * (size_t)s->state.head_dim_v, false);
    s->state.row_max = (float *)(void *)s->array[0].bytes;
    s->state.row_sum = (float *)(void *)s->array[1].bytes;
    s->state.acc = (float *)(void *)s->array[2].bytes;
}

test_stream test_stream_begin(const flashc_attention_params *whole)
{
    test_stream s;
    expect_ok(flashc_attention_state_init(&s.state, sizeof s.state, whole));
    s.state.seqlens_k = whole->seqlens_k;
    allocate(&s);
    expect_ok(flashc_attention_state_clear(&s.state));
    return s;
}

static void skip_to(flashc_tensor *t, int axis, int64_t first)
{
    if (t->data != NULL)
        t->data = axis == 2 ? test_at(t, 0, 0, first, 0) : test_at(t, 0, 0, 0, first);
}

static int64_t within(int64_t x, int64_t most)
{
    return x < 0 ? 0 : x < most ? x : most;
}

void test_stream_chunk(test_stream *s, const flashc_attention_params *whole, int64_t first, int64_t n)
{
    expect_ok(test_stream_form(s, whole, first, n, &(form_kind){.packed_q = false}, NULL));
}

flashc_status test_stream_form(test_stream *s, const flashc_attention_params *whole, int64_t first, int64_t n,
                               const form_kind *kind, test_rng *rng)
{
    flashc_attention_params chunk = *whole;
    flashc_tensor *rows[] = {&chunk.k, &chunk.v, &chunk.k_scale, &chunk.v_scale};
    for (int i = 0; i < 4; i++)
        skip_to(rows[i], 2, first);
    skip_to(&chunk.mask, 3, first);
    skip_to(&chunk.bias, 3, first);
    skip_to(&chunk.scores, 3, first);
    chunk.seqlen_k = n;
    int64_t *lengths = calloc(2 * (size_t)chunk.batch + 1, sizeof *lengths), *padding = lengths + chunk.batch;
    for (int64_t b = 0; b < chunk.batch; b++) {
        lengths[b] = within(whole->seqlens_k != NULL ? whole->seqlens_k[b] - first : n, n);
        padding[b] = within(whole->leftpad_k != NULL ? whole->leftpad_k[b] - first : 0, lengths[b]);
    }
    chunk.seqlens_k = whole->seqlens_k != NULL ? lengths : NULL;
    chunk.o = chunk.lse = (flashc_tensor){.data = NULL};
    flashc_status status;
    if (form_is_padded(kind)) {
        status = flashc_attention_accumulate(&s->state, &chunk);
    } else {
        test_form f;
        char message[256];
        chunk.leftpad_k = whole->leftpad_k != NULL ? padding : NULL;
        form_make(&f, &chunk, kind, rng);
        f.params.leftpad_k = whole->leftpad_k;
        status = flashc_attention_accumulate(&s->state, &f.params);
        if (status == FLASHC_OK && !form_collect(&f, &chunk, message, sizeof message))
            fail_msg("%s", message);
        form_free(&f);
    }
    free(lengths);
    return status;
}

void test_stream_move(test_stream *s)
{
    test_stream moved = *s;
    allocate(&moved);
    for (int i = 0; i < 3; i++) {
        memcpy(moved.array[i].bytes, s->array[i].bytes, s->array[i].size);
        guarded_free(&s->array[i]);
    }
    *s = moved;
}

void test_stream_free(test_stream *s)
{
    for (int i = 0; i < 3; i++)
        guarded_free(&s->array[i]);
}

void test_stream_all(problem *p, int64_t unit, test_rng *rng)
{
    test_stream s = test_stream_begin(&p->params);
    const int64_t units = p->params.seqlen_k / unit + 1;
    for (int64_t first = 0; first < p->params.seqlen_k;) {
        int64_t n = unit * test_rng_int(rng, 1, 1 + units / 2);
        if (test_rng_chance(rng, 20))
            n = unit;
        n = n < p->params.seqlen_k - first ? n : p->params.seqlen_k - first;
        p->params.num_threads = (int)test_rng_int(rng, 1, 3);
        test_stream_chunk(&s, &p->params, first, n);
        if (test_rng_chance(rng, 30))
            test_stream_move(&s);
        first += n;
    }
    expect_ok(flashc_attention_finish(&s.state, &p->params));
    test_stream_free(&s);
}
