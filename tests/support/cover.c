#include "support/cover.h"

#include "support/values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 30, OPEN = -1 };

/* The number of a level among all factors' levels. */
static int number(const cover *c, int factor, int level)
{
    int n = level;
    for (int f = 0; f < factor; f++)
        n += c->levels[f];
    return n;
}

static bool allowed(const cover *c, int a, int level_a, int b, int level_b)
{
    return a < b ? !c->forbidden(a, level_a, b, level_b) : !c->forbidden(b, level_b, a, level_a);
}

void cover_add(const cover *c, cover_count *count, const int row[COVER_FACTORS])
{
    int numbers[COVER_FACTORS];
    for (int f = 0; f < c->factors; f++)
        numbers[f] = number(c, f, row[f]);
    for (int a = 0; a < c->factors; a++)
        for (int b = 0; b < c->factors; b++)
            count->met[numbers[a]][numbers[b]] = true;
}

int64_t cover_missing(const cover *c, const cover_count *count, int except, int except_level, int missing[4])
{
    int64_t n = 0;
    for (int a = 0; a < c->factors; a++)
        for (int b = a + 1; b < c->factors; b++)
            for (int i = 0; i < c->levels[a]; i++)
                for (int j = 0; j < c->levels[b]; j++) {
                    const bool excepted = (a == except && i == except_level) || (b == except && j == except_level);
                    if (excepted || count->met[number(c, a, i)][number(c, b, j)] || !allowed(c, a, i, b, j))
                        continue;
                    n++;
                    memcpy(missing, (int[]){a, i, b, j}, 4 * sizeof(int));
                }
    return n;
}

/* How many pairs the level adds to those of the row so far; OPEN if one of them is forbidden. */
static int gain_of(const cover *c, const cover_count *count, const int *row, int factor, int level)
{
    int gain = 0;
    const int own = number(c, factor, level);
    for (int f = 0; f < c->factors; f++) {
        if (f == factor || row[f] == OPEN)
            continue;
        if (!allowed(c, factor, level, f, row[f]))
            return OPEN;
        gain += !count->met[own][number(c, f, row[f])];
    }
    return gain;
}

/* Fills the open factors of a row in random order, each with the level that adds most. Returns what they add. */
static int fill(const cover *c, const cover_count *count, int *row, test_rng *rng)
{
    int order[COVER_FACTORS], total = 0;
    for (int f = 0; f < c->factors; f++) {
        const int other = (int)test_rng_int(rng, 0, f);
        order[f] = order[other];
        order[other] = f;
    }
    for (int n = 0; n < c->factors; n++) {
        const int factor = order[n];
        int best = OPEN, ties = 0;
        for (int level = 0; level < c->levels[factor] && row[factor] == OPEN; level++) {
            const int gain = gain_of(c, count, row, factor, level);
            if (gain == OPEN || gain < best)
                continue;
            ties = gain > best ? 1 : ties + 1;
            if (test_rng_int(rng, 1, ties) == 1)
                order[n] = level;
            best = gain;
        }
        if (row[factor] != OPEN)
            continue;
        if (best == OPEN) {
            fprintf(stderr, "cover: no level of factor %d goes with the others of a row\n", factor);
            exit(1);
        }
        row[factor] = order[n];
        total += best;
    }
    return total;
}

/* A pair that is not met yet, in missing; false if there is none. */
static bool random_missing(const cover *c, const cover_count *count, test_rng *rng, int missing[4])
{
    int64_t left = cover_missing(c, count, OPEN, 0, missing), skip = left > 0 ? test_rng_int(rng, 0, left - 1) : 0;
    for (int a = 0; a < c->factors && left > 0; a++)
        for (int b = a + 1; b < c->factors; b++)
            for (int i = 0; i < c->levels[a]; i++)
                for (int j = 0; j < c->levels[b]; j++)
                    if (!count->met[number(c, a, i)][number(c, b, j)] && allowed(c, a, i, b, j) && skip-- == 0) {
                        memcpy(missing, (int[]){a, i, b, j}, 4 * sizeof(int));
                        return true;
                    }
    return false;
}

void cover_make(cover *c, uint64_t seed)
{
    test_rng rng = {seed};
    cover_count *count = calloc(1, sizeof *count);
    int pair[4];
    c->rows = 0;
    c->pairs = cover_missing(c, count, OPEN, 0, pair);
    while (random_missing(c, count, &rng, pair)) {
        int best = OPEN;
        for (int n = 0; n < CANDIDATES && c->rows < COVER_ROWS; n++) {
            int row[COVER_FACTORS];
            for (int f = 0; f < c->factors; f++)
                row[f] = OPEN;
            row[pair[0]] = pair[1];
            row[pair[2]] = pair[3];
            const int gain = fill(c, count, row, &rng);
            if (gain > best)
                memcpy(c->row[c->rows], row, sizeof row);
            best = gain > best ? gain : best;
        }
        if (best == OPEN) {
            fprintf(stderr, "cover: %d rows do not cover all pairs\n", COVER_ROWS);
            exit(1);
        }
        cover_add(c, count, c->row[c->rows]);
        c->rows++;
    }
    free(count);
}
