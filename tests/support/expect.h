/* Assertions on what a call reported. */
#ifndef FLASHC_TESTS_EXPECT_H
#define FLASHC_TESTS_EXPECT_H

#include "flashc.h"

/* FLASHC_OK; otherwise the failure prints the message. */
void expect_ok(flashc_status status);

/* FLASHC_ERR_ARGUMENT with exactly this message. */
void expect_argument_error(flashc_status status, const char *message);

#endif
