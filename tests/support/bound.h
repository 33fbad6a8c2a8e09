/* The error bound that flashc.h states, as functions, and a tighter gate for random data. */
#ifndef FLASHC_TESTS_BOUND_H
#define FLASHC_TESTS_BOUND_H

#include "flashc.h"

#include "support/oracle.h"

#include <stdbool.h>
#include <stdint.h>

/* What the bound depends on besides the row. */
typedef struct bound_terms {
    int64_t chain;       /* n + T of flashc.h: n keys and T = n / block_n key tiles */
    double largest_code; /* of v's type if it has scales, else 1 */
    int weights_rounded; /* to bf16: factors of 1 + 2^-8 on the weighted V, of the weights themselves and of V */
    bool logits_rounded; /* q or k was rounded to bf16 */
    double per_logit;    /* c of flashc.h, as it is unless data was made to let roundings pile up */
} bound_terms;

/* Those of a call whose plan is this. */
bound_terms bound_terms_of(const flashc_attention_params *params, const flashc_explanation *plan);

/* |O - exact| of one element, half an ulp of the output type included. row, column: of the oracle. */
double bound_o(const oracle *r, int64_t row, int64_t column, bound_terms terms, flashc_dtype o_dtype);
/* |LSE - exact| of one row. */
double bound_lse(const oracle *r, int64_t row, bound_terms terms);
/* For zero-mean random data only: rounding errors of terms of both signs cancel, so that the error
 * does not grow with the number of keys: 4 u (1 + A) max|v|, half an ulp included. */
double bound_o_zero_mean(const oracle *r, int64_t row, int64_t column, flashc_dtype o_dtype);

/* Compares o, and lse if there, of params with the oracle's. true: all is as flashc.h says; false:
 * message (of size bytes) says where it is not. zero_mean: apply the tight gate as well, where nothing is rounded to
 * bf16. */
bool bound_check(const flashc_attention_params *params, const oracle *r, const flashc_explanation *plan,
                 bool zero_mean, char *message, size_t size);

/* The same, but with the c that holds whatever the data. */
bool bound_check_any_data(const flashc_attention_params *params, const oracle *r, const flashc_explanation *plan,
                          char *message, size_t size);

/* The same as bound_check() for row_max, scores and key_mass, as far as they are there. */
bool bound_check_outputs(const flashc_attention_params *params, const oracle *r, const flashc_explanation *plan,
                         char *message, size_t size);

#endif
