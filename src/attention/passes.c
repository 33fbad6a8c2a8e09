#include "attention/passes.h"

#include "params.h"
#include "softmax/state.h"

int64_t flashc_attention_state_piece_keys(const flashc_attention_state *state)
{
    return state->piece_n > 0 ? state->piece_n : FLASHC_SIZE_LIMIT;
}

flashc_attention_state_step flashc_attention_state_next(const flashc_attention_state *state, int64_t begin,
                                                        int64_t end, int64_t nodes)
{
    const int64_t keys = flashc_attention_state_piece_keys(state), left = keys - begin % keys;
    return (flashc_attention_state_step){
        .index = begin / keys,
        .end = end - begin > left ? begin + left : end,
        .continues = begin % keys != 0 && nodes > 0,
        .completes = end - begin >= left,
    };
}

int64_t flashc_attention_state_nodes_after(const flashc_attention_state *s, int64_t begin, int64_t end, int64_t nodes)
{
    while (begin < end) {
        const flashc_attention_state_step step = flashc_attention_state_next(s, begin, end, nodes);
        nodes += !step.continues;
        if (step.completes)
            nodes -= flashc_min(flashc_softmax_tree_carries(step.index), nodes - 1);
        begin = step.end;
    }
    return nodes;
}

void flashc_attention_state_next_pass(const flashc_attention_state *s, int64_t most_runs, int64_t end,
                                      flashc_chunk_pass *pass)
{
    const int64_t keys = flashc_attention_state_piece_keys(s), begin = pass->end, index = begin / keys;
    const int64_t pieces = begin % keys == 0 ? (end - begin) / keys : 0;
    *pass = (flashc_chunk_pass){.begin = begin, .end = end, .nodes = pass->nodes};
    if (most_runs == 1)
        return;
    if (pieces < 2) { /* an unfinished piece, or what is left of one in front of others */
        pass->end = begin % keys == 0 ? end : flashc_min(end, begin + keys - begin % keys);
        return;
    }
    int64_t whole = 1, aligned; /* pieces of a run, as many as there should be, and as may begin here */
    while (whole * 2 * most_runs <= pieces)
        whole *= 2;
    for (aligned = 1; aligned < whole && index % (aligned * 2) == 0; aligned *= 2)
        ;
    const int64_t most = aligned < whole ? (whole - index % whole) / aligned : pieces / aligned;
    pass->n_runs = flashc_min(most_runs, flashc_min(most, pieces / aligned));
    pass->run_keys = aligned * keys;
    pass->end = begin + pass->n_runs * pass->run_keys;
}
