/* How a chunk of keys that goes to a state is cut: into the steps of one thread, or into runs of whole pieces for
 * several. */
#ifndef FLASHC_PASSES_H
#define FLASHC_PASSES_H

#include "common.h"

/* A pass: the keys of a chunk that go to a state when the plan is executed once. Either one thread takes all of them
 * for its rows, piece by piece, or several share them, each one run of whole pieces, which is a node of the tree. */
typedef struct flashc_chunk_pass {
    int64_t begin, end;       /* keys begin .. end - 1; with runs, begin is a multiple of run_keys */
    int64_t nodes;            /* that the state has before */
    int64_t run_keys, n_runs; /* n_runs 0: one thread takes all */
} flashc_chunk_pass;

/* Keys of a piece; more than there can be if they are not cut. */
int64_t flashc_attention_state_piece_keys(const flashc_attention_state *state);

/* One step of a chunk: the keys begin .. end - 1, which all lie in piece number `index`. */
typedef struct flashc_attention_state_step {
    int64_t index, end;
    bool continues; /* the last node, which is unfinished */
    bool completes; /* the piece: its node meets those before it */
} flashc_attention_state_step;

/* The step from key begin on, of a chunk that ends at `end`, to a state that has so many nodes. */
flashc_attention_state_step flashc_attention_state_next(const flashc_attention_state *state, int64_t begin,
                                                        int64_t end, int64_t nodes);

/* How many nodes every row has, of so many before, when the keys begin .. end - 1 have been taken. */
int64_t flashc_attention_state_nodes_after(const flashc_attention_state *state, int64_t begin, int64_t end,
                                           int64_t nodes);

/* Sets *pass, a pass over a chunk whose keys end at `end`, to the one that follows it. With most_runs > 1 and whole
 * pieces left that is one of runs of equal length, at most so many; the bits are those of piece after piece. */
void flashc_attention_state_next_pass(const flashc_attention_state *state, int64_t most_runs, int64_t end,
                                      flashc_chunk_pass *pass);

#endif
