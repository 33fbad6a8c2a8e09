/* What happens to a tile of scores between Q K^T and softmax, in the order of flashc.h: softcap, bias, ALiBi,
 * score_mod. And the sink, the one logit that comes in at the end. (What is hidden is the mask's question.) */
#ifndef FLASHC_STAGES_H
#define FLASHC_STAGES_H

#include "attention/block.h"

/* Runs the stages that the problem has over the tile. noted: a tile of bytes to work with. */
void flashc_stages_run(const flashc_problem *p, const flashc_score_tile *tile, uint8_t *noted);

/* A finished row: what its acc is to be multiplied by, and its LSE, the head's sink included, and the largest score
 * that it saw, where the pointers are not NULL. */
void flashc_stages_finish_row(const flashc_problem *p, int64_t head, float row_max, float row_sum, float *factor,
                              float *lse, float *max_out);

#endif
