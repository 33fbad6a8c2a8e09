#include "support/expect.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

void expect_ok(flashc_status status)
{
    if (status != FLASHC_OK)
        fail_msg("expected success, found: %s", flashc_last_error());
}

void expect_argument_error(flashc_status status, const char *message)
{
    if (status != FLASHC_ERR_ARGUMENT)
        fail_msg("expected \"%s\", found status %d", message, (int)status);
    assert_string_equal(flashc_last_error(), message);
}
