/* What params say per sequence, checked: alignment, window, lengths and pages. */
#ifndef FLASHC_CHECK_SEQUENCES_H
#define FLASHC_CHECK_SEQUENCES_H

#include "common.h"

/* state: NULL, or what a chunk goes to. */
flashc_status flashc_check_sequences(const flashc_attention_params *params, const flashc_attention_state *state);

#endif
