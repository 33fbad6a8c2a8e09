#include "attention/mask.h"

#include "numerics.h"

#include <math.h>
#include <string.h>

bool flashc_mask_is_given(const flashc_problem *p)
{
    return p->causal || p->window_left >= 0 || p->window_right >= 0 || p->block_mask.data || p->mask.data;
}

static int64_t add_saturated(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (b > 0 ? INT64_MAX : INT64_MIN) : sum;
}

/* Before clamping to the keys, the ends of query 0's range: that of query i is i further on. A sum that leaves 64
 * bits does so to the side where the clamp puts it anyway. */
static flashc_key_range range_of_query_0(const flashc_problem *p, const flashc_sequence *s)
{
    flashc_key_range range = {.begin = INT64_MIN, .end = INT64_MAX};
    if (p->window_left >= 0)
        range.begin = add_saturated(s->offset, -p->window_left);
    if (p->causal)
        range.end = add_saturated(s->offset, 1);
    else if (p->window_right >= 0)
        range.end = add_saturated(add_saturated(s->offset, 1), p->window_right);
    return range;
}

static int64_t clamp_key(int64_t end_of_query_0, int64_t query, const flashc_sequence *s)
{
    return flashc_max(s->begin_key, flashc_min(add_saturated(end_of_query_0, query), s->n_keys));
}

flashc_key_range flashc_mask_keys_of(const flashc_problem *p, const flashc_sequence *s, int64_t first, int64_t last)
{
    const flashc_key_range base = range_of_query_0(p, s);
    return (flashc_key_range){.begin = p->window_left < 0 ? s->begin_key : clamp_key(base.begin, first, s),
                              .end = clamp_key(base.end, last, s)};
}

flashc_key_range flashc_mask_keys(const flashc_problem *p, const flashc_sequence *s, int64_t query)
{
    return flashc_mask_keys_of(p, s, query, query);
}

/* The sum over the queries of one end of their ranges, counted from begin_key: zeros, a ramp, then a plateau. */
static double sum_of_ends(int64_t end_of_query_0, const flashc_sequence *s)
{
    const flashc_sequence keys = {.n_keys = s->n_keys - s->begin_key};
    end_of_query_0 = add_saturated(end_of_query_0, -s->begin_key);
    if (s->n_queries == 0 || end_of_query_0 <= -s->n_queries)
        return 0;
    const int64_t zeros = flashc_max(0, -end_of_query_0);
    const int64_t first = clamp_key(end_of_query_0, zeros, &keys);
    const int64_t last = clamp_key(end_of_query_0, s->n_queries - 1, &keys);
    const int64_t ramp = last - first + 1, plateau = s->n_queries - zeros - ramp;
    return ((double)first + (double)last) * (double)ramp / 2 + (double)plateau * (double)last;
}

double flashc_mask_visible_pairs(const flashc_problem *p, const flashc_sequence *s)
{
    const flashc_key_range base = range_of_query_0(p, s);
    return sum_of_ends(base.end, s) - sum_of_ends(base.begin, s);
}

void flashc_mask_resolve_block(const flashc_problem *p, flashc_row_block *block)
{
    const int64_t first = flashc_row_query(p, block, 0), last = flashc_row_query(p, block, block->n_rows - 1);
    block->keys = flashc_mask_keys_of(p, &block->sequence, first, last);
    block->full = flashc_mask_keys_of(p, &block->sequence, last, first);
}

/* Walks the rows of a block: its queries, and the heads of the group for each. No division a row. */
typedef struct walk {
    int64_t query, member;
} walk;

static walk first_of(const flashc_problem *p, const flashc_row_block *block)
{
    return (walk){.query = block->first_row / p->group, .member = block->first_row % p->group};
}

/* Where the keys from first_key on of this row begin in a mask or bias; then steps to the next row. */
static const char *next_row(walk *w, const flashc_problem *p, const flashc_row_block *block, const flashc_tensor *t,
                            int64_t first_key)
{
    const char *row = flashc_element(t, block->sequence.q_element, block->head_k * p->group + w->member,
                                     block->sequence.first_query + w->query, block->sequence.first_key + first_key);
    if (++w->member == p->group)
        *w = (walk){.query = w->query + 1};
    return row;
}

static bool hides(const flashc_tensor *t, const char *row, int64_t index)
{
    return t->dtype == FLASHC_BOOL ? row[index] == 0 : flashc_load_f32(row, t->dtype, index) == -INFINITY;
}

static bool row_hides_all(const flashc_tensor *t, const char *row, int64_t n_keys)
{
    if (!hides(t, row, 0))
        return false;
    const int64_t stride = t->stride[3];
    if (stride == 1) { /* one bit pattern of each type hides: are all elements like their neighbours? */
        const size_t size = flashc_dtype_size(t->dtype);
        return memcmp(row, row + size, (size_t)(n_keys - 1) * size) == 0;
    }
    for (int64_t key = 1; key < n_keys; key++)
        if (!hides(t, row, key * stride))
            return false;
    return true;
}

static bool hides_tile(const flashc_problem *p, const flashc_tensor *t, const flashc_score_tile *tile)
{
    if (!t->data)
        return false;
    walk w = first_of(p, tile->block);
    const char *before = NULL;
    for (int64_t r = 0; r < tile->block->n_rows; r++) {
        const char *row = next_row(&w, p, tile->block, t, tile->first_key);
        if (row != before && !row_hides_all(t, row, tile->n_keys))
            return false;
        before = row;
    }
    return true;
}

static bool block_mask_shows(const flashc_problem *p, const flashc_row_block *block, int64_t head, int64_t tile_m,
                             int64_t tile_n)
{
    return *flashc_element(&p->block_mask, block->batch, head, tile_m, tile_n) != 0;
}

static int64_t tile_of_row(const flashc_problem *p, const flashc_row_block *block, int64_t row)
{
    return flashc_row_query(p, block, row) / p->block_mask_m;
}

/* How many of the keys first_key .. + n_keys are in the tile of the block mask's that the first is in. */
static int64_t keys_of_first_tile(const flashc_problem *p, int64_t first_key, int64_t n_keys)
{
    return flashc_min(n_keys, p->block_mask_n - first_key % p->block_mask_n);
}

/* Does the block mask hide the tile from all rows? */
static bool block_mask_hides(const flashc_problem *p, const flashc_row_block *block, int64_t first_key, int64_t n_keys)
{
    const int64_t first_head = block->head_k * p->group;
    const int64_t first = tile_of_row(p, block, 0), last = tile_of_row(p, block, block->n_rows - 1);
    for (int64_t tile_n = first_key / p->block_mask_n; tile_n <= (first_key + n_keys - 1) / p->block_mask_n; tile_n++)
        for (int64_t tile_m = first; tile_m <= last; tile_m++)
            for (int64_t head = first_head; head < first_head + p->group; head++)
                if (block_mask_shows(p, block, head, tile_m, tile_n))
                    return false;
    return true;
}

bool flashc_mask_reaches(const flashc_problem *p, const flashc_row_block *block, int64_t first_key, int64_t n_keys)
{
    return block->keys.begin < first_key + n_keys && block->keys.end > first_key &&
           !(p->block_mask.data && block_mask_hides(p, block, first_key, n_keys));
}

bool flashc_mask_hides_tile(const flashc_problem *p, const flashc_score_tile *tile)
{
    return hides_tile(p, &p->mask, tile) || hides_tile(p, &p->bias, tile);
}

void flashc_mask_add(const flashc_problem *p, const flashc_tensor *t, const flashc_score_tile *tile)
{
    const void *row[FLASHC_MAX_BLOCK_M];
    walk w = first_of(p, tile->block);
    for (int64_t r = 0; r < tile->block->n_rows; r++)
        row[r] = next_row(&w, p, tile->block, t, tile->first_key);
    const flashc_rows rows = {.row = row, .dtype = t->dtype, .col_stride = t->stride[3]};
    tile->vector->add_rows(tile->scores, tile->ld, rows, tile->block->n_rows, tile->n_keys);
}

/* Hides keys among the tile's keys skip .. skip + n_keys - 1: from row r those before skip + first[r], and from skip +
 * last[r] on. */
static void hide_keys(const flashc_score_tile *tile, int64_t skip, int64_t n_keys, const int32_t *first,
                      const int32_t *last)
{
    tile->vector->hide(tile->scores + skip * flashc_col_step(tile->vector, tile->ld), tile->ld, n_keys, tile->lanes,
                       first, last);
}

/* Tile by tile of the block mask's, the rows that do not see it. */
static void hide_by_block_mask(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    int32_t first[FLASHC_MAX_BLOCK_M] = {0}, last[FLASHC_MAX_BLOCK_M] = {0};
    for (int64_t done = 0, keys; done < tile->n_keys; done += keys) {
        const int64_t tile_n = (tile->first_key + done) / p->block_mask_n;
        keys = keys_of_first_tile(p, tile->first_key + done, tile->n_keys - done);
        bool hides = false;
        for (int64_t r = 0; r < block->n_rows; r++) {
            const bool shows =
                block_mask_shows(p, block, flashc_row_head(p, block, r), tile_of_row(p, block, r), tile_n);
            last[r] = shows ? (int32_t)keys : 0;
            hides = hides || !shows;
        }
        if (hides)
            hide_keys(tile, done, keys, first, last);
    }
}

static void hide_by_position(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    const int64_t first_key = tile->first_key, end_key = first_key + tile->n_keys;
    if (first_key >= block->full.begin && end_key <= block->full.end)
        return;
    int32_t first[FLASHC_MAX_BLOCK_M] = {0}, last[FLASHC_MAX_BLOCK_M] = {0};
    /* Keys in the full range are visible to all rows: those at this or that end of the tile are not walked. */
    const int64_t skip = first_key >= block->full.begin ? flashc_max(0, block->full.end - first_key) : 0;
    const int64_t stop = end_key <= block->full.end ? block->full.begin - first_key : tile->n_keys;
    const int64_t walked = flashc_min(stop, tile->n_keys) - skip;
    for (int64_t r = 0; r < block->n_rows; r++) {
        const flashc_key_range keys = flashc_mask_keys(p, &block->sequence, flashc_row_query(p, block, r));
        first[r] = (int32_t)flashc_max(0, flashc_min(keys.begin - first_key - skip, walked));
        last[r] = (int32_t)flashc_max(0, flashc_min(keys.end - first_key - skip, walked));
    }
    hide_keys(tile, skip, walked, first, last);
}

void flashc_mask_hide(const flashc_problem *p, const flashc_score_tile *tile)
{
    if (p->mask.data)
        flashc_mask_add(p, &p->mask, tile);
    if (p->block_mask.data)
        hide_by_block_mask(p, tile);
    hide_by_position(p, tile);
}
