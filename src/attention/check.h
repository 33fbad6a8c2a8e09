/* Params of an attention call, checked argument by argument (see flashc.h), before anything is made of them. */
#ifndef FLASHC_ATTENTION_CHECK_H
#define FLASHC_ATTENTION_CHECK_H

#include "common.h"

/* Everything but the scales themselves. state: NULL, or what a chunk goes to. outputs: are o and the others looked at,
 * or, of a chunk, scores alone? */
flashc_status flashc_check_attention(const flashc_attention_params *params, const flashc_attention_state *state,
                                     bool outputs);

#endif
