/* How a chunk of keys that goes to a state is cut: into the steps of one thread, or into runs of whole pieces for
 * several. */
#ifndef FLASHC_PASSES_H
#define FLASHC_PASSES_H

#include "common.h"

/* What of a chunk of keys is taken to a state at once: begin .. end - 1, to which the state comes with so many nodes.
 * Either one thread takes all of them (n_runs 0), piece by piece, or they are runs, which are nodes of the tree: so
 * many, of run_keys each, begin being a multiple of that. */
typedef struct flashc_chunk_pass {
    int64_t begin, end, nodes;
    int64_t run_keys, n_runs;
} flashc_chunk_pass;

/* Keys of a piece; more than there can be if they are not cut. */
int64_t flashc_stream_piece_keys(const flashc_attention_state *state);

/* One step of a chunk: the keys begin .. end - 1, which all lie in piece number `index`. */
typedef struct flashc_stream_step {
    int64_t index, end;
    bool continues; /* the last node, which is unfinished */
    bool completes; /* the piece: its node meets those before it */
} flashc_stream_step;

/* The step from key begin on of a chunk that ends at `end`, with so many nodes before it. */
flashc_stream_step flashc_stream_next(const flashc_attention_state *state, int64_t begin, int64_t end, int64_t nodes);

/* What execute leaves in every row of so many nodes when it takes the keys begin .. end - 1. */
int64_t flashc_stream_nodes_after(const flashc_attention_state *state, int64_t begin, int64_t end, int64_t nodes);

/* Sets *pass to what of a chunk's keys, up to `end`, comes after the pass that it was. With most_runs > 1 it is cut
 * into at most so many runs of equal length where whole pieces are left; the bits are those of piece after piece. */
void flashc_stream_next_pass(const flashc_attention_state *state, int64_t most_runs, int64_t end,
                             flashc_chunk_pass *pass);

#endif
