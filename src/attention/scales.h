/* The scales of K's and V's rows, checked. */
#ifndef FLASHC_SCALES_H
#define FLASHC_SCALES_H

#include "attention/problem.h"

/* Are the scales of all rows that are keys finite and not negative? Reads them all, unlike the other checks. */
flashc_status flashc_scales_check(const flashc_problem *problem);

#endif
