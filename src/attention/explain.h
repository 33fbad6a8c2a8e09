/* The plan of a problem as the caller sees it. */
#ifndef FLASHC_EXPLAIN_H
#define FLASHC_EXPLAIN_H

#include "attention/problem.h"

/* Is there an explanation to fill, of our size? name: the argument's. */
flashc_status flashc_explanation_check(const char *name, const flashc_explanation *out);

flashc_status flashc_explain_problem(const flashc_problem *problem, flashc_explanation *out);

#endif
