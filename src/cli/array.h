/*
 * An array from a .npy file as a command needs it: of a type that flashc knows, with element strides.
 * Functions that return int: FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message that names the file.
 */
#ifndef FLASHC_CLI_ARRAY_H
#define FLASHC_CLI_ARRAY_H

#include "npy/npy.h"

#include <flashc.h>
#include <stddef.h>
#include <stdint.h>

typedef struct flashc_cli_array {
    const char *name;         /* file name, or "standard input": for messages */
    flashc_npy_type file_type;
    flashc_dtype dtype;       /* of the elements at data; set by the _to_ functions */
    int rank;
    int64_t shape[FLASHC_NPY_MAX_RANK];
    int64_t strides[FLASHC_NPY_MAX_RANK]; /* in elements */
    int64_t count;
    void *data;               /* NULL if the array was never read */
    flashc_npy *file;         /* owns data unless one of these does: */
    void *owned;              /* a converted copy */
    size_t reserved;          /* > 0: data is an address without memory behind it */
} flashc_cli_array;

/* Reads a file ("-": standard input). plan_only: if it is a regular file, reads the header only, and data points
 * to an address that nobody may touch: enough for flashc_explain(). */
int flashc_cli_array_read(const char *path, int plan_only, flashc_cli_array *array);

/* An array without a file, in C order; reserved as above or filled with zero bytes. */
int flashc_cli_array_make(const char *name, flashc_dtype dtype, int rank, const int64_t *shape, int plan_only,
                          flashc_cli_array *array);

/* The same of a file's type, for elements that are read later. */
int flashc_cli_array_make_raw(const char *name, flashc_npy_type type, int rank, const int64_t *shape,
                              flashc_cli_array *array);

/* Converts to dtype (a flashc_dtype; 0: keep f32 and f16, refuse the rest). f64 and, for bf16, two-byte raw
 * data are taken only where dtype asks for a conversion. */
int flashc_cli_array_to_float(flashc_cli_array *array, int dtype);

/* Converts between f32, f16 and bf16. */
int flashc_cli_array_convert(flashc_cli_array *array, flashc_dtype dtype);

/* Takes bool, u8 and i8 as FLASHC_BOOL. */
int flashc_cli_array_to_mask(flashc_cli_array *array);

/* Room for the array's elements in so many bytes each, aligned to 64; NULL after a message if there is none. */
void *flashc_cli_array_allocate(const flashc_cli_array *array, size_t size);

/* Takes elements allocated so, in the same order of memory, for those that it had. */
void flashc_cli_array_replace(flashc_cli_array *array, void *data);

/* Rearranges the elements into C order, if they are not. */
int flashc_cli_array_pack(flashc_cli_array *array);

/* An element of an array in C order; of a NaN without its sign, which printf would show. */
double flashc_cli_array_element(const flashc_cli_array *array, int64_t i);

/* Exchanges two axes of the view. */
void flashc_cli_array_swap_axes(flashc_cli_array *array, int a, int b);

/* Harmless on a zeroed one. */
void flashc_cli_array_free(flashc_cli_array *array);

/* "[2, 8, 128]" into text, which is returned. */
enum { FLASHC_CLI_SHAPE_TEXT = 160 };
const char *flashc_cli_shape_text(int rank, const int64_t *shape, char text[FLASHC_CLI_SHAPE_TEXT]);

/* "2 heads", "1 head" of heads; "head_dim 2" of what is no plural. */
enum { FLASHC_CLI_SIZE_TEXT = 48 };
const char *flashc_cli_size_text(const char *what, int64_t size, char text[FLASHC_CLI_SIZE_TEXT]);

/* The type that O and other results have in a file. */
flashc_npy_type flashc_cli_npy_type(flashc_dtype dtype);

#endif
