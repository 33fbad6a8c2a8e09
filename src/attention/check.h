/* Params of an attention call, checked argument by argument (see flashc.h), before anything is made of them. */
#ifndef FLASHC_ATTENTION_CHECK_H
#define FLASHC_ATTENTION_CHECK_H

#include "common.h"

/* Checks everything but the values of k_scale and v_scale. state: where a chunk goes, or NULL. outputs: are o, lse,
 * row_max and key_mass checked? (A chunk has no other output than scores.) */
flashc_status flashc_check_attention(const flashc_attention_params *params, const flashc_attention_state *state,
                                     bool outputs);

#endif
