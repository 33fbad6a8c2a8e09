/* The calls that --stream-kv makes of one: on each sequence alone, and on a shared prefix. */
#ifndef FLASHC_CLI_STREAM_CALLS_H
#define FLASHC_CLI_STREAM_CALLS_H

#include <flashc.h>

/* The tensor without its first n elements of an axis. */
flashc_tensor flashc_cli_stream_skip(flashc_tensor whole, int axis, int64_t n);

/* The sum, or the nearest number of 64 bits: beyond all keys. */
int64_t flashc_cli_stream_add(int64_t a, int64_t b);

/* The call on sequence b alone, but for its K and V. */
flashc_attention_params flashc_cli_stream_sequence(const flashc_attention_params *whole, int64_t b);

/* The call of all queries, as those of one sequence, on a prefix. flashc_attention_shared_prefix() makes the same of
 * its arguments, inside the library; flashc-run has flashc.h alone. The queries lie as that function wants; o has the
 * shape of its result, but not the strides that the rows of all sequences have. */
flashc_attention_params flashc_cli_stream_prefix(const flashc_attention_params *whole,
                                                 const flashc_shared_prefix *prefix);

#endif
