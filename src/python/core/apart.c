#include "python/core/apart.h"

#include <stdlib.h>

enum { Q8_0_COLUMNS = 32, MAX_STEPS = 10000, MAX_TERMS = 2 * FLASHC_PY_MAX_NDIM };
static const int64_t MAX_REACH = INT64_MAX / 16;

/* Bytes of what a stride counts: an element, of q8_0 a block. */
static int64_t unit_of(const flashc_py_view *view)
{
    return (int64_t)flashc_dtype_size(view->dtype);
}

/* On axis i: how many units, and how many bytes one lies behind the other. */
static int64_t count_on(const flashc_py_view *view, int i)
{
    const bool blocks = view->dtype == FLASHC_Q8_0 && i == view->ndim - 1;
    return blocks ? view->shape[i] / Q8_0_COLUMNS : view->shape[i];
}

static int64_t step_on(const flashc_py_view *view, int i)
{
    return view->stride[i] * unit_of(view);
}

flashc_py_extent flashc_py_extent_of(const flashc_py_view *view)
{
    flashc_py_extent e = {.name = view->name, .view = view};
    if (!view->name)
        return e;
    int64_t below = 0, above = unit_of(view), step, reach;
    for (int i = 0; i < view->ndim; i++)
        if (count_on(view, i) < 1)
            return e;
    for (int i = 0; i < view->ndim; i++) {
        const int64_t more = count_on(view, i) - 1;
        if (more == 0)
            continue;
        if (__builtin_mul_overflow(view->stride[i], unit_of(view), &step) ||
            __builtin_mul_overflow(more, step, &reach) || reach > MAX_REACH - above || reach < -MAX_REACH - below)
            return e; /* only claims to be so large: the library refuses it */
        *(reach < 0 ? &below : &above) += reach;
    }
    e.low = (uintptr_t)view->data + (uintptr_t)below;
    e.high = (uintptr_t)view->data + (uintptr_t)above;
    return e;
}

/* sum of step * x, x from 0 to most: of the distances between units of two arrays. */
typedef struct {
    int64_t step, most;
    int64_t reach;   /* of this term and those behind it */
    int64_t divisor; /* of the steps behind it; 0: none */
} term;

static int larger_first(const void *a, const void *b)
{
    const int64_t x = ((const term *)a)->step, y = ((const term *)b)->step;
    return x < y ? 1 : x > y ? -1 : 0;
}

static int add_terms(const flashc_py_view *view, term *terms, int n)
{
    for (int i = 0; view && i < view->ndim; i++) {
        const int64_t step = step_on(view, i), most = count_on(view, i) - 1;
        if (most > 0 && step != 0)
            terms[n++] = (term){.step = step < 0 ? -step : step, .most = most};
    }
    return n;
}

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Is a sum of the terms in least .. greatest? Tries the values of one term after the other, the largest step first, of
 * which few can do where axes nest. *steps: how many more tries there are; at 0 it answers no. */
static bool reaches(const term *terms, int n, int64_t least, int64_t greatest, int *steps)
{
    if (greatest < 0 || least > (n > 0 ? terms->reach : 0))
        return false;
    if (least <= 0)
        return true;
    if (n == 0)
        return false;
    const int64_t rest = terms->reach - terms->step * terms->most;
    const int64_t first = least > rest ? (least - rest + terms->step - 1) / terms->step : 0;
    for (int64_t x = first; x <= terms->most && x * terms->step <= greatest; x++) {
        const int64_t from = least - x * terms->step, to = greatest - x * terms->step;
        if (--*steps < 0)
            return false;
        if (terms->divisor > 1 && from > 0 && to / terms->divisor * terms->divisor < from)
            continue;
        if (reaches(terms + 1, n - 1, from, to, steps))
            return true;
    }
    return false;
}

bool flashc_py_extents_meet(const flashc_py_extent *a, const flashc_py_extent *b)
{
    if (a->low == a->high || b->low == b->high || a->high <= b->low || b->high <= a->low)
        return false;
    term terms[MAX_TERMS];
    int n = add_terms(b->view, terms, add_terms(a->view, terms, 0)), merged = 0, steps = MAX_STEPS;
    qsort(terms, (size_t)n, sizeof terms[0], larger_first);
    for (int i = 0; i < n; i++)
        if (merged > 0 && terms[merged - 1].step == terms[i].step)
            terms[merged - 1].most += terms[i].most;
        else
            terms[merged++] = terms[i];
    int64_t reach = 0, divisor = 0;
    for (int i = merged; i-- > 0;) {
        terms[i].divisor = divisor;
        terms[i].reach = reach += terms[i].step * terms[i].most;
        divisor = greatest_divisor(terms[i].step, divisor);
    }
    /* Units at a's lowest + x and at b's highest - y meet if x + y is their distance, or up to a unit off. */
    const int64_t unit_a = a->view ? unit_of(a->view) : (int64_t)(a->high - a->low);
    const int64_t unit_b = b->view ? unit_of(b->view) : (int64_t)(b->high - b->low);
    const int64_t distance = (int64_t)(b->high - a->low) - unit_b;
    return reaches(terms, merged, distance - unit_a + 1, distance + unit_b - 1, &steps);
}

int flashc_py_expect_extents_apart(const flashc_py_extent *extents, int outputs, int all)
{
    for (int i = 0; i < outputs; i++)
        for (int j = i + 1; extents[i].low != extents[i].high && j < all; j++)
            if (flashc_py_extents_meet(&extents[i], &extents[j])) {
                PyErr_Format(PyExc_ValueError, "%s: expected memory of its own, found elements of %s in it",
                             extents[i].name, extents[j].name);
                return -1;
            }
    return 0;
}
