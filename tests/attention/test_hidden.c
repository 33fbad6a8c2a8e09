/* A hidden key cannot influence the result, bit for bit, whatever its K and V hold; rows without a
 * visible key are 0 and -inf. On every kernel, for every way of hiding. */
#include "support/cmocka.h"
#include "support/kernels.h"

#include <math.h>
#include <string.h>

typedef enum hiding {
    BY_MASK, BY_BIAS, BY_SCORE_MOD, BY_CAUSAL, BY_WINDOW, BY_LENGTH, BY_BLOCK_MASK, HIDINGS
} hiding;
static const char *const hiding_names[HIDINGS] = {"mask",   "bias of -inf", "score_mod", "causal",
                                                  "window", "lengths and left padding", "block mask"};

/* What hidden keys hold. 65504 is the largest f16; the f32 and bf16 one overflows in any product. */
static const double poisons[] = {(double)NAN, (double)INFINITY, -(double)INFINITY, 65504.0, 3e38, -3e38};
enum { POISONS = sizeof poisons / sizeof poisons[0] };

static const problem_shape small = {1, 2, 1, 5, 1, 12, 9}, small_blocks = {1, 2, 1, 5, 1, 32, 32};

/* Run the tests on key tiles, or on the pieces that long keys are split in? */
static bool on_pieces;

/* A problem of three key tiles and a rest on this kernel, with at least two query blocks if the kernel takes as
 * many; or of three key pieces and a rest, with few rows and threads that share the pieces. *block_n: the length
 * of a tile, or of a piece. */
static void three_tiles(problem *p, const char *kernel, flashc_dtype dtype, int64_t *block_n)
{
    problem_shape shape = dtype == FLASHC_Q8_0 ? small_blocks : small;
    shape.seqlen_k = shape.seqlen_q = 1024;
    shape = shape_for(kernel, shape);
    problem_plain(p, &shape, dtype, 1);
    p->params.kernel = kernel;
    flashc_explanation plan = plan_of(p);
    problem_free(p);
    *block_n = plan.block_n < 300 ? plan.block_n : 300;
    shape.seqlen_q = plan.block_m < 100 ? plan.block_m + 3 : 103;
    if (on_pieces) {
        *block_n = kernel_piece(kernel, shape.head_dim, shape.head_dim_v);
        shape.seqlen_q = 7;
    }
    shape.seqlen_k = 3 * *block_n + 2;
    shape = shape_for(kernel, shape);
    problem_plain(p, &shape, dtype, 1);
    p->params.kernel = kernel;
    if (on_pieces) {
        p->params.num_threads = 2;
        assert_int_equal(plan_of(p).piece_n, *block_n);
    }
}

static void hide(problem *p, hiding how, int64_t i, int64_t j)
{
    if (how == BY_SCORE_MOD) /* by itself: hide_poisoned() */
        return;
    for (int64_t b = 0; b < p->params.batch; b++) {
        for (int64_t h = 0; h < p->params.num_heads; h++) {
            if (how == BY_MASK)
                test_set(&p->params.mask, b, h, i, j, 0.0);
            else
                test_set(&p->params.bias, b, h, i, j, -(double)INFINITY);
        }
    }
}

static void set_key(problem *p, int64_t j, double k, double v)
{
    for (int64_t b = 0; b < p->params.batch; b++) {
        for (int64_t d = 0; d < p->params.head_dim; d++)
            test_set(&p->params.k, b, 0, j, d, k);
        for (int64_t c = 0; c < p->params.head_dim_v; c++)
            test_set(&p->params.v, b, 0, j, c, v);
    }
}

/* Keys that lie at the borders and in the middle of tiles: about every seventh. */
static bool is_poisoned(int64_t j, int64_t block_n)
{
    int64_t in_tile = j % block_n;
    return in_tile == 0 || in_tile == block_n - 1 || in_tile % 7 == 3;
}

/* The block mask's tiles, of 3 rows and 7 keys here: about every third column of them is hidden. */
enum { TILE_M = 3, TILE_N = 7 };

/* Sees row i the poisoned keys, where they are shared? Rows 0, 3, 6, ... do, by what hides single elements; by causal
 * those from first_row on, by a window those before. */
static bool sees_poison(hiding how, int64_t i, int64_t first_row)
{
    if (how == BY_BLOCK_MASK)
        return i / TILE_M % 2 == 0;
    return how == BY_CAUSAL ? i >= first_row : how == BY_WINDOW ? i < first_row : i % 3 == 0;
}

static bool in_hidden_tile(int64_t j)
{
    return j / TILE_N % 3 == 1;
}

/* A score_mod that hides key j from row i if bit 0 of seed is not set or the row does not see it; seed / 2: block_n. */
static double hide_poisoned(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j);

/* Does every row see less by its position or by lengths? Then these keys are poisoned; *first_row: see above. */
static bool hide_by_position(problem *p, hiding how, bool shared, int64_t block_n, int64_t *first_row,
                             int64_t *poison_begin, int64_t *poison_end)
{
    const int64_t rows = p->params.seqlen_q, keys = p->params.seqlen_k;
    *poison_begin = 0;
    *poison_end = keys;
    if (how == BY_CAUSAL) { /* the last row sees all but block_n + 1 keys; poisoned are those, or some before too */
        const int64_t offset = keys - rows - block_n - 1;
        problem_add_causal(p, offset);
        *first_row = shared ? rows / 2 : rows;
        *poison_begin = *first_row + offset > 0 ? *first_row + offset : 0;
    } else if (how == BY_WINDOW) { /* the first row sees all but block_n + 1 keys */
        problem_add_array(p, ARRAY_OFFSETS, block_n + 1 + keys);
        p->params.alignment = FLASHC_ALIGN_EXPLICIT;
        p->params.window_left = keys;
        *first_row = shared ? rows / 2 : 0;
        *poison_end = block_n + 1 + *first_row;
    } else if (how == BY_LENGTH) { /* poisoned are the keys at both ends */
        problem_add_array(p, ARRAY_SEQLENS_K, keys - block_n / 2);
        problem_add_array(p, ARRAY_LEFTPAD_K, block_n + 2);
        *first_row = 0;
    } else if (how == BY_BLOCK_MASK) {
        problem_add_block_mask(p, TILE_M, TILE_N);
        for (int64_t j = 0; j < keys; j += TILE_N) {
            for (int64_t i = 0; i < rows && in_hidden_tile(j); i += TILE_M) {
                for (int64_t h = 0; h < p->params.num_heads && !(shared && i / TILE_M % 2 == 0); h++)
                    *test_at(&p->params.block_mask, 0, h, i / TILE_M, j / TILE_N) = 0;
            }
        }
    } else {
        return false;
    }
    return true;
}

static bool is_real(const problem *p, int64_t j)
{
    return j >= p->params.leftpad_k[0] && j < p->params.seqlens_k[0];
}

static double hide_poisoned(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j)
{
    (void)b;
    (void)h;
    const bool sees = (mod->seed & 1) != 0 && sees_poison(BY_SCORE_MOD, i, 0);
    return is_poisoned(j, (int64_t)(mod->seed / 2)) && !sees ? -(double)INFINITY : 0.0;
}

/* Rows that do not see the poison have the same bits with and without it. */
static void assert_rows_same(const problem *clean, const problem *dirty, hiding how, int64_t first_row,
                             const char *what)
{
    for (problem_tensor which = TENSOR_O; which <= TENSOR_LSE; which++) {
        int64_t size[4];
        problem_sizes(clean, which, size);
        for (int64_t n = 0; n < size[0] * size[1] * size[2] * size[3]; n++) {
            int64_t j = n % size[3], i = n / size[3] % size[2], h = n / size[3] / size[2] % size[1];
            int64_t b = n / size[3] / size[2] / size[1];
            uint32_t x = test_get_bits(problem_view(clean, which), b, h, i, j);
            uint32_t y = test_get_bits(problem_view(dirty, which), b, h, i, j);
            if (!sees_poison(how, i, first_row) && x != y) {
                problem_print(stderr, dirty);
                fail_msg("%s: %s of row %lld, which cannot see the poisoned keys, changed from %08x to %08x", what,
                         problem_tensor_name(which), (long long)i, x, y);
            }
        }
    }
}

/* shared: the poisoned keys are visible to other rows of the same tile; otherwise to none. */
static void check_poison(const char *kernel, flashc_dtype dtype, hiding how, bool shared)
{
    problem clean, dirty;
    problem *both[2] = {&clean, &dirty};
    int64_t block_n, first_row = 0, poison_begin = 0, poison_end = 0;
    bool by_position = false;
    for (int n = 0; n < 2; n++) {
        problem *p = both[n];
        three_tiles(p, kernel, dtype, &block_n);
        int64_t rows = p->params.seqlen_q;
        if (!shared && dtype == FLASHC_F32)
            problem_add_outputs(p, FLASHC_SCORES_WEIGHTS, FLASHC_F32);
        if (how == BY_MASK)
            problem_add_mask(p);
        else if (how == BY_BIAS)
            problem_add_bias(p, is_of_codes(dtype) ? FLASHC_F32 : dtype);
        else if (how == BY_SCORE_MOD)
            problem_add_score_mod(p, hide_poisoned, 2 * (uint64_t)block_n + shared);
        by_position = hide_by_position(p, how, shared, block_n, &first_row, &poison_begin, &poison_end);
        for (int64_t j = 0; j < p->params.seqlen_k && !by_position; j++) {
            for (int64_t i = 0; i < rows && is_poisoned(j, block_n); i++) {
                if (!shared || !sees_poison(how, i, first_row))
                    hide(p, how, i, j);
            }
        }
    }
    for (int poison = 0; poison < POISONS; poison++) {
        for (int64_t j = 0; j < clean.params.seqlen_k; j++) {
            if (by_position ? j < poison_begin || j >= poison_end : !is_poisoned(j, block_n))
                continue;
            if ((how == BY_LENGTH && is_real(&clean, j)) || (how == BY_BLOCK_MASK && !in_hidden_tile(j)))
                continue;
            set_key(&clean, j, 0.0, 0.0);
            set_key(&dirty, j, poisons[poison], poisons[(poison + (int)(j % 2)) % POISONS]);
        }
        problem_snapshot(&clean);
        problem_snapshot(&dirty);
        /* Once is enough for the rows that see the poison; huge ones overflow f32 before the oracle. */
        run_problem(&clean);
        if (isnan(poisons[poison]))
            run_and_check(&dirty);
        else
            run_problem(&dirty);
        if (shared && how != BY_LENGTH)
            assert_rows_same(&clean, &dirty, how, first_row, hiding_names[how]);
        else
            assert_same_bits(&clean, &dirty, hiding_names[how]);
    }
    problem_free(&clean);
    problem_free(&dirty);
}

static void poison(const char *kernel)
{
    for (hiding how = BY_MASK; how < HIDINGS; how++) {
        for (flashc_dtype dtype = FLASHC_F32; dtype <= FLASHC_BF16; dtype++) {
            if (dtype == FLASHC_F16 && how > BY_BIAS) /* how a type is read and how a key is hidden: not in all pairs */
                continue;
            check_poison(kernel, dtype, how, false);
            check_poison(kernel, dtype, how, true);
        }
    }
    static const flashc_dtype codes[] = {FLASHC_I8, FLASHC_F8_E4M3, FLASHC_F8_E5M2, FLASHC_Q8_0};
    for (int n = 0; n < 4; n++)
        check_poison(kernel, codes[n], n % 2 ? BY_LENGTH : BY_MASK, true);
}

/* Every subset of three key tiles hidden, for all rows alike (pattern < 8) or row i with subset i
 * modulo 8 (pattern 8), by mask or bias: first tile empty, last tile empty, all empty. */
static void tile_patterns(const char *kernel)
{
    for (int pattern = 0; pattern <= 8; pattern++) {
        for (hiding how = BY_MASK; how <= BY_BIAS; how++) {
            problem p;
            int64_t block_n;
            three_tiles(&p, kernel, FLASHC_F32, &block_n);
            problem_add_mask(&p);
            problem_add_bias(&p, FLASHC_BF16);
            for (int64_t i = 0; i < p.params.seqlen_q; i++) {
                for (int64_t j = 0; j < p.params.seqlen_k; j++) {
                    int64_t tile = j / block_n < 2 ? j / block_n : 2;
                    if ((((pattern < 8 ? pattern : i % 8) >> tile) & 1) != 0)
                        hide(&p, how, i, j);
                }
            }
            run_and_check(&p);
            problem_free(&p);
        }
    }
}

/* k = [-inf, 0, 0, ...]: the score is -inf for rows with q_0 > 0 (hidden, also its NaN in V) and
 * +inf for those with q_0 < 0 (NaN). Hidden rows have the bits that a mask gives them. */
static void natural_infinity(const char *kernel)
{
    problem natural, masked;
    problem *both[2] = {&natural, &masked};
    int64_t block_n;
    for (int n = 0; n < 2; n++) {
        problem *p = both[n];
        three_tiles(p, kernel, FLASHC_F32, &block_n);
        problem_add_mask(p);
        for (int64_t b = 0; b < p->params.batch; b++) {
            for (int64_t h = 0; h < p->params.num_heads; h++) {
                for (int64_t i = 0; i < p->params.seqlen_q; i++)
                    test_set(&p->params.q, b, h, i, 0, i % 3 == 0 ? -1.0 : 1.0); /* rows 0, 3, ... get NaN */
            }
        }
        for (int64_t j = 0; j < p->params.seqlen_k; j++) {
            if (!is_poisoned(j, block_n))
                continue;
            set_key(p, j, 0.0, n == 0 && j % 2 != 0 ? (double)NAN : 7.0);
            for (int64_t b = 0; b < p->params.batch; b++)
                test_set(&p->params.k, b, 0, j, 0, n == 0 ? -(double)INFINITY : 0.0);
            for (int64_t i = 0; i < p->params.seqlen_q && n == 1; i++)
                hide(p, BY_MASK, i, j);
        }
    }
    run_and_check(&natural);
    run_and_check(&masked);
    assert_rows_same(&masked, &natural, BY_MASK, 0, "k of -inf");
    problem_free(&natural);
    problem_free(&masked);
}

static void pieces(const char *kernel)
{
    on_pieces = true;
    for (hiding how = BY_MASK; how < HIDINGS; how++)
        check_poison(kernel, how % 2 == 0 ? FLASHC_F32 : FLASHC_F16, how, true);
    check_poison(kernel, FLASHC_F32, BY_MASK, false);
    tile_patterns(kernel);
    natural_infinity(kernel);
    on_pieces = false;
}

int main(void)
{
    static kernel_check checks[] = {{poison}, {tile_patterns}, {natural_infinity}, {pieces}};
    const struct CMUnitTest tests[] = {
        {"hidden_keys_leave_no_trace", test_on_kernels, NULL, NULL, &checks[0]},
        {"every_pattern_of_hidden_tiles", test_on_kernels, NULL, NULL, &checks[1]},
        {"scores_of_minus_infinity_hide", test_on_kernels, NULL, NULL, &checks[2]},
        {"the_same_over_split_keys", test_on_kernels, NULL, NULL, &checks[3]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
