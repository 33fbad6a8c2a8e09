/* What is asked of a state and of a call that comes with one, before any work. */
#ifndef FLASHC_ATTENTION_STATE_CHECK_H
#define FLASHC_ATTENTION_STATE_CHECK_H

#include "common.h"

/* The most keys that the levels hold: each node stands for twice as many pieces as the one after it. */
int64_t flashc_attention_state_capacity(const flashc_attention_state *state);

/* Can its arrays be had at all: are they of less than 2^63 bytes? Its sizes are in range. */
flashc_status flashc_attention_state_check_memory(const char *name, const flashc_attention_state *state);

/* Are the state's sizes in range, and its arrays there? */
flashc_status flashc_attention_state_check_state(const char *name, const flashc_attention_state *state);

/* Checks the state and copies the caller's params: what a call that has both begins with. */
flashc_status flashc_attention_state_read_call(flashc_attention_params *ours, const flashc_attention_state *state,
                                               const flashc_attention_params *params);

/* Does the state have a row of its own for each query of the call? */
flashc_status flashc_attention_state_check_rows(const flashc_attention_state *state,
                                                const flashc_attention_params *params);

/* Refuses outputs of softmax weights: they need the LSE of all keys, and so all keys in one call. */
flashc_status flashc_attention_state_check_outputs(const flashc_attention_params *params);

#endif
