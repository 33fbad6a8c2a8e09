/* Floating-point modes that a caller may be in: how it rounds, and whether subnormal numbers count as 0. */
#ifndef FLASHC_TESTS_FLOAT_MODE_H
#define FLASHC_TESTS_FLOAT_MODE_H

#include "flashc.h"

/* All modes; the last is the default one. */
enum { FLOAT_MODES = 8 };

/* Runs function(argument) in a mode, then goes back to the default one. Fails the test if the function has changed the
 * mode. Returns what the function did. */
flashc_status in_float_mode(int mode, flashc_status (*function)(void *argument), void *argument);

#endif
