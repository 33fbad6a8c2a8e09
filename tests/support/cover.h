/* Pairwise covering designs: rows that give every factor a level, so that every pair of levels of two factors, but the
 * forbidden ones, is in some row. Made greedily (as AETG does: Cohen, Dalal, Fredman and Patton, 1997) from a seed. */
#ifndef FLASHC_TESTS_COVER_H
#define FLASHC_TESTS_COVER_H

#include <stdbool.h>
#include <stdint.h>

enum { COVER_FACTORS = 40, COVER_LEVELS = 160, COVER_ROWS = 400 };

typedef struct cover {
    int factors;
    int levels[COVER_FACTORS];                     /* of each factor; level 0 goes with some level of any other */
    bool (*forbidden)(int a, int level_a, int b, int level_b); /* a < b */
    /* Filled in by cover_make(): */
    int rows;
    int row[COVER_ROWS][COVER_FACTORS];
    int64_t pairs; /* allowed */
} cover;

/* Exits with a message if there is no design of so many rows. */
void cover_make(cover *c, uint64_t seed);

/* Pairs that were run. */
typedef struct cover_count {
    bool met[COVER_LEVELS][COVER_LEVELS];
} cover_count;

void cover_add(const cover *c, cover_count *count, const int row[COVER_FACTORS]);
/* How many allowed pairs were not met, leaving out those of factor `except` at this level; one of them in a, level_a,
 * b, level_b. */
int64_t cover_missing(const cover *c, const cover_count *count, int except, int except_level, int missing[4]);

#endif
