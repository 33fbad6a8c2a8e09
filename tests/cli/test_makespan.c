/* The simulation behind `explain --predict`, which is pure: checked exactly. */
#include "cli/costs.h"
#include "cli/makespan.h"

#include "support/cmocka.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_ITEMS = 200 };
static const double ROUNDING = 1e-9;
static const flashc_makespan_memory no_limit = {.bandwidth = (double)INFINITY, .queue = 1.0};

static void assert_near(double a, double b)
{
    if (!(fabs(a - b) <= ROUNDING * fmax(fabs(a), fabs(b))))
        fail_msg("%.17g is not %.17g", a, b);
}

static flashc_makespan simulate(int64_t count, const flashc_makespan_item *items, int threads, double start,
                                const flashc_makespan_memory *memory)
{
    flashc_makespan m;
    assert_true(flashc_makespan_simulate(count, items, threads, start, memory, &m));
    assert_near(m.seconds, m.start + m.computing + m.waiting + m.idle);
    return m;
}

/* Seconds of a list without memory traffic. */
static double seconds_of(int64_t count, const double *seconds, int threads)
{
    flashc_makespan_item items[MOST_ITEMS];
    for (int64_t i = 0; i < count; i++)
        items[i] = (flashc_makespan_item){.seconds = seconds[i]};
    return simulate(count, items, threads, 0.0, &no_limit).seconds;
}

static void by_hand(void **state)
{
    (void)state;
    const double falling[] = {3, 1, 1, 1}, rising[] = {1, 1, 1, 3}, mixed[] = {2, 3, 2, 1, 4};
    assert_near(seconds_of(4, falling, 1), 6);
    assert_near(seconds_of(4, falling, 2), 3);
    assert_near(seconds_of(4, rising, 2), 4);
    /* The first is free at 2 and takes the third, the second at 3 the fourth; at 4 both are free. */
    assert_near(seconds_of(5, mixed, 2), 8);
    assert_near(seconds_of(5, mixed, 3), 6);
    assert_near(seconds_of(5, mixed, 64), 4);
}

static double random_share(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(*seed >> 8) / (1 << 24);
}

static void bounds_and_parts(void **state)
{
    (void)state;
    unsigned seed = 1;
    for (int round = 0; round < 50; round++) {
        flashc_makespan_item items[MOST_ITEMS];
        const int64_t count = 1 + (int64_t)(random_share(&seed) * (MOST_ITEMS - 1));
        double total = 0, longest = 0, before = (double)INFINITY;
        for (int64_t i = 0; i < count; i++) {
            items[i] = (flashc_makespan_item){.seconds = random_share(&seed) < 0.1 ? 0.0 : random_share(&seed)};
            total += items[i].seconds;
            longest = fmax(longest, items[i].seconds);
        }
        for (int threads = 1; threads <= 1024; threads = threads < 8 ? threads + 1 : 2 * threads) {
            const flashc_makespan m = simulate(count, items, threads, 0.25, &no_limit);
            const double time = m.seconds - 0.25;
            assert_near(m.start, 0.25);
            assert_near(m.computing * threads, total);
            assert_near(m.longest, longest);
            assert_true(m.waiting == 0.0 && m.idle >= 0.0);
            assert_true(time >= (total / threads) * (1 - ROUNDING) && time >= longest * (1 - ROUNDING));
            assert_true(time <= total / threads + longest);
            assert_true(time <= before * (1 + ROUNDING)); /* more threads are never slower */
            before = time;
            if (threads == 1)
                assert_near(time, total);
            if (threads >= count)
                assert_near(time, longest);
        }
    }
}

static void nothing_to_do(void **state)
{
    (void)state;
    const flashc_makespan_item empty[3] = {{0.0, 0.0}};
    const flashc_makespan_memory memory = {.bandwidth = 5, .wait = 1, .queue = 1};
    assert_near(simulate(0, NULL, 4, 0.5, &memory).seconds, 0.5);
    assert_near(simulate(3, empty, 2, 0.5, &memory).seconds, 0.5);
}

/* One thread waits as its own traffic makes it wait. */
static void memory_alone(void **state)
{
    (void)state;
    const flashc_makespan_item late = {.seconds = 2.0, .bytes = 8.0};
    const flashc_makespan_memory waits = {.bandwidth = (double)INFINITY, .queue = 1.0, .wait = 0.25};
    assert_near(simulate(1, &late, 1, 0.0, &waits).seconds, 4.0); /* each byte waits, however many may come at once */
    const flashc_makespan_item items[2] = {{.seconds = 2.0, .bytes = 30.0}, {.seconds = 2.0, .bytes = 30.0}};
    const flashc_makespan_memory memory = {.bandwidth = 20.0, .wait = 0.01, .queue = 0.7};
    const flashc_makespan m = simulate(2, items, 1, 0.0, &memory);
    const double used = 30.0 / (m.seconds / 2) / 20.0;
    assert_near(m.computing, 4.0);
    assert_near(m.waiting, 2 * 30.0 * (0.01 + 0.7 / 20.0 * used / (1.0 - used)));
    assert_near(m.longest, m.seconds / 2);
    /* Each item's own, where the next one has more to read. */
    const flashc_makespan_item unlike[2] = {{.seconds = 2.0}, items[1]};
    assert_near(simulate(2, unlike, 1, 0.0, &memory).seconds, 2.0 + m.seconds / 2);
}

static void memory_shared(void **state)
{
    (void)state;
    flashc_makespan_item items[MOST_ITEMS];
    const flashc_makespan_memory slow = {.bandwidth = 20.0, .queue = 1.0}, fast = {.bandwidth = 200.0, .queue = 1.0};
    for (int i = 0; i < MOST_ITEMS; i++)
        items[i] = (flashc_makespan_item){.seconds = 1.0, .bytes = 4.0};
    double before = (double)INFINITY;
    for (int threads = 1; threads <= MOST_ITEMS; threads *= 2) {
        const flashc_makespan m = simulate(MOST_ITEMS, items, threads, 0.0, &slow);
        assert_true(m.seconds > MOST_ITEMS * 4.0 / 20.0); /* the bandwidth is never reached */
        assert_true(m.seconds < before);
        assert_true(m.waiting > 0.0 && m.seconds > simulate(MOST_ITEMS, items, threads, 0.0, &fast).seconds);
        before = m.seconds;
    }
    assert_true(before < 1.2 * MOST_ITEMS * 4.0 / 20.0); /* but come near to */
    /* A neighbour without traffic is not held up, one with traffic is. */
    const flashc_makespan_item quiet[2] = {{.seconds = 1.0, .bytes = 4.0}, {.seconds = 1.0}};
    assert_near(simulate(2, quiet, 2, 0.0, &slow).seconds, simulate(1, quiet, 1, 0.0, &slow).seconds);
    assert_true(simulate(2, items, 2, 0.0, &slow).seconds > simulate(1, items, 1, 0.0, &slow).seconds);
}

static void limits(void **state)
{
    (void)state;
    const double even[] = {1, 1, 1, 1}, long_one[] = {8, 1, 1, 1};
    flashc_makespan_item a[4], b[4], c[4];
    for (int i = 0; i < 4; i++) {
        a[i] = (flashc_makespan_item){.seconds = even[i]};
        b[i] = (flashc_makespan_item){.seconds = long_one[i]};
        c[i] = (flashc_makespan_item){.seconds = 0.1, .bytes = 10};
    }
    const flashc_makespan_memory slow = {.bandwidth = 1.0, .queue = 1.0};
    flashc_makespan m = simulate(4, a, 4, 0.1, &no_limit);
    assert_string_equal(flashc_makespan_limit(&m), "arithmetic");
    m = simulate(4, a, 4, 3.0, &no_limit);
    assert_string_equal(flashc_makespan_limit(&m), "starting the threads");
    m = simulate(4, a, 16, 0.1, &no_limit);
    assert_string_equal(flashc_makespan_limit(&m), "the longest item");
    m = simulate(4, b, 4, 0.1, &no_limit);
    assert_string_equal(flashc_makespan_limit(&m), "the longest item");
    m = (flashc_makespan){.seconds = 10.0, .start = 2.0, .idle = 3.0, .longest = 7.5, .computing = 2.5, .waiting = 2.5};
    assert_string_equal(flashc_makespan_limit(&m), "the longest item"); /* of the 8 seconds that threads work */
    m.longest = 7.0;
    assert_string_equal(flashc_makespan_limit(&m), "too few items");
    m = simulate(4, c, 4, 0.1, &slow);
    assert_string_equal(flashc_makespan_limit(&m), "memory");
}

static void fit_finds_costs(void **state)
{
    (void)state;
    const flashc_costs truth = {{1e-6, 2e-6, 3e-9, 0.0, 5e-9, 7e-10, 0.0}};
    const flashc_item_work work[] = {
        {.rows = 48, .keys = 96, .pieces = 1, .tiles = 1, .scores = 48 * 96},
        {.rows = 480, .keys = 96, .pieces = 1, .tiles = 10, .scores = 480 * 96},
        {.rows = 48, .keys = 960, .pieces = 1, .tiles = 10, .scores = 48 * 960},
        {.rows = 16, .keys = 2000, .pieces = 3, .tiles = 30, .edge_tiles = 7, .scores = 16 * 2000},
        {.rows = 96, .keys = 300, .pieces = 1, .tiles = 8, .edge_tiles = 2, .scores = 80 * 300},
    };
    enum { SAMPLES = 10 };
    flashc_cost_sample samples[SAMPLES] = {{{0.0}, 0.0}};
    for (int i = 0; i < SAMPLES; i++) {
        samples[i].units[FLASHC_COST_CALL] = 1.0;
        for (int n = 0; n <= (i < 5 ? 0 : 3 * i); n++)
            flashc_costs_count(&work[i % 5], samples[i].units);
        samples[i].seconds = flashc_costs_sum(&truth, samples[i].units);
    }
    flashc_costs found;
    flashc_costs_fit(SAMPLES, samples, &found);
    for (int c = 0; c < FLASHC_COSTS; c++)
        if (!(fabs(found.seconds[c] - truth.seconds[c]) <= 0.02 * truth.seconds[c] + 1e-10))
            fail_msg("%s: %g, expected %g", flashc_cost_name((flashc_cost)c), found.seconds[c], truth.seconds[c]);
    for (int i = 0; i < SAMPLES; i++)
        assert_true(fabs(flashc_costs_sum(&found, samples[i].units) / samples[i].seconds - 1.0) < 0.002);
    samples[0].seconds *= 0.1; /* would make some cost negative */
    flashc_costs_fit(SAMPLES, samples, &found);
    for (int c = 0; c < FLASHC_COSTS; c++)
        assert_true(found.seconds[c] >= 0.0);
}

/* A head's keys come from memory once if they fit in half of the cache, else as often as they are read. */
static void bytes_of_heads(void **state)
{
    (void)state;
    const flashc_costs costs = {{9.0, 1.0, 0.0, 0.25, 0.5, 0.0, 0.0}};
    const flashc_item_work work[] = {
        {.head_k = 0, .rows = 9, .first_key = 0, .keys = 100, .pieces = 3},
        {.head_k = 0, .rows = 9, .first_key = 0, .keys = 60, .pieces = 1},
        {.head_k = 1, .rows = 9, .first_key = 0, .keys = 50, .pieces = 1},
        {.head_k = 1, .rows = 9, .first_key = 50, .keys = 30, .pieces = 1},
        {.batch = 1, .head_k = 1},
    };
    const flashc_cost_bytes bytes = {.key = 8.0, .row = 2.0};
    flashc_makespan_item items[5];
    flashc_costs_of_items(&costs, 5, work, &bytes, 1600.0, items);
    assert_near(items[0].seconds, 55.5); /* an item, its keys, two more pieces of its rows; no call */
    assert_near(items[1].seconds, 31.0);
    assert_near(items[0].bytes, 518.0);
    assert_near(items[1].bytes, 318.0);
    assert_near(items[2].bytes, 418.0);
    assert_near(items[3].bytes, 258.0);
    assert_near(items[4].bytes, 0.0);
    flashc_costs_of_items(&costs, 5, work, &bytes, 1599.0, items);
    assert_near(items[0].bytes, 818.0);
    assert_near(items[1].bytes, 498.0);
    assert_near(items[2].bytes, 418.0);
    /* Each batch element has keys of its own, and what reads none says nothing of where they begin. */
    const flashc_item_work alike[] = {
        {.rows = 1, .keys = 100, .pieces = 1},
        {.batch = 1, .rows = 1, .first_key = 40, .keys = 100, .pieces = 1},
        {.batch = 1, .rows = 1},
    };
    flashc_costs_of_items(&costs, 3, alike, &bytes, 1e6, items);
    assert_near(items[0].bytes, 802.0);
    assert_near(items[1].bytes, 802.0);
    assert_near(items[2].bytes, 2.0);
}

/* Blocks of codes, and a scale where each row has its own. */
static void bytes_of_rows(void **state)
{
    (void)state;
    static float scale;
    flashc_attention_params p = {.head_dim = 64, .head_dim_v = 32};
    p.q.dtype = FLASHC_F32;
    p.k.dtype = FLASHC_Q8_0;
    p.v.dtype = FLASHC_I8;
    p.o.dtype = FLASHC_BF16;
    p.v_scale = (flashc_tensor){.data = &scale, .dtype = FLASHC_F32, .stride = {0, 0, 1, 1}};
    assert_near(flashc_costs_bytes(&p).key, 2 * 34 + 32 + 4);
    assert_near(flashc_costs_bytes(&p).row, 64 * 4 + 32 * 2);
    p.v_scale.stride[2] = 0;
    assert_near(flashc_costs_bytes(&p).key, 2 * 34 + 32);
}

static void names_of_costs(void **state)
{
    (void)state;
    static const struct {
        flashc_cost cost;
        const char *name;
    } all[FLASHC_COSTS] = {{FLASHC_COST_CALL, "call"},   {FLASHC_COST_ITEM, "item"},
                           {FLASHC_COST_ROW, "row"},     {FLASHC_COST_PIECE_ROW, "piece_row"},
                           {FLASHC_COST_KEY, "key"},     {FLASHC_COST_SCORE, "score"},
                           {FLASHC_COST_EDGE_TILE, "edge_tile"}};
    for (int i = 0; i < FLASHC_COSTS; i++)
        assert_string_equal(flashc_cost_name(all[i].cost), all[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),       cmocka_unit_test(bounds_and_parts), cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(memory_alone),  cmocka_unit_test(memory_shared),    cmocka_unit_test(limits),
        cmocka_unit_test(fit_finds_costs), cmocka_unit_test(bytes_of_heads), cmocka_unit_test(bytes_of_rows),
        cmocka_unit_test(names_of_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
