/* How a chunk of keys is cut: into the steps of one thread, or into runs of whole pieces for several. */
#include "attention/plan.h"
#include "attention/stream.h"
#include "params.h"
#include "softmax/state.h"

int64_t flashc_stream_piece_keys(const flashc_attention_state *state)
{
    return state->piece_n > 0 ? state->piece_n : FLASHC_SIZE_LIMIT;
}

flashc_stream_step flashc_stream_next(const flashc_attention_state *state, int64_t begin, int64_t end, int64_t nodes)
{
    const int64_t keys = flashc_stream_piece_keys(state), left = keys - begin % keys;
    return (flashc_stream_step){
        .index = begin / keys,
        .end = end - begin > left ? begin + left : end,
        .continues = begin % keys != 0 && nodes > 0,
        .completes = end - begin >= left,
    };
}

int64_t flashc_stream_nodes_after(const flashc_attention_state *s, int64_t begin, int64_t end, int64_t nodes)
{
    while (begin < end) {
        const flashc_stream_step step = flashc_stream_next(s, begin, end, nodes);
        nodes += !step.continues;
        if (step.completes)
            nodes -= flashc_min(flashc_softmax_tree_carries(step.index), nodes - 1);
        begin = step.end;
    }
    return nodes;
}

void flashc_stream_next_pass(const flashc_attention_state *s, flashc_plan *plan, int64_t end)
{
    const int64_t keys = flashc_stream_piece_keys(s), begin = plan->pass.end, index = begin / keys;
    const int64_t pieces = begin % keys == 0 ? (end - begin) / keys : 0;
    plan->pass = (flashc_chunk_pass){.begin = begin, .end = end, .nodes = plan->pass.nodes};
    if (plan->runs == 1)
        return;
    if (pieces < 2) { /* an unfinished piece, or what is left of one in front of others */
        plan->pass.end = begin % keys == 0 ? end : flashc_min(end, begin + keys - begin % keys);
        return;
    }
    int64_t whole = 1, aligned; /* pieces of a run, as many as there should be, and as may begin here */
    while (whole * 2 * plan->runs <= pieces)
        whole *= 2;
    for (aligned = 1; aligned < whole && index % (aligned * 2) == 0; aligned *= 2)
        ;
    const int64_t most = aligned < whole ? (whole - index % whole) / aligned : pieces / aligned;
    plan->pass.n_runs = flashc_min(plan->runs, flashc_min(most, pieces / aligned));
    plan->pass.run_keys = aligned * keys;
    plan->pass.end = begin + plan->pass.n_runs * plan->pass.run_keys;
}
