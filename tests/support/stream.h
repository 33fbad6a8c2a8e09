/* A state in memory of its own, fed from a whole problem's K and V. */
#ifndef FLASHC_TESTS_STREAM_H
#define FLASHC_TESTS_STREAM_H

#include "support/form.h"

#include "flashc.h"

typedef struct test_stream {
    flashc_attention_state state;
    guarded_buffer array[3]; /* row_max, row_sum, acc */
} test_stream;

/* Cleared, for the whole call; packed, state.seqlens_k is to be set. */
test_stream test_stream_begin(const flashc_attention_params *whole);
/* Takes the keys first .. first + n - 1 of the whole call, where they lie. */
void test_stream_chunk(test_stream *s, const flashc_attention_params *whole, int64_t first, int64_t n);
/* The same with the chunk in another form; its status. */
flashc_status test_stream_form(test_stream *s, const flashc_attention_params *whole, int64_t first, int64_t n,
                               const form_kind *kind, test_rng *rng);
/* The whole problem through a state of its own, in chunks of random multiples of unit, on 1 to 3 threads. */
void test_stream_all(problem *p, int64_t unit, test_rng *rng);
/* Saves the arrays elsewhere, as a file would, and frees the old ones. */
void test_stream_move(test_stream *s);
void test_stream_free(test_stream *s);

#endif
