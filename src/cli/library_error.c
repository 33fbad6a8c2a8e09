#include "cli/library_error.h"

#include "cli/cli.h"

#include <ctype.h>
#include <flashc.h>
#include <string.h>

static const flashc_cli_field none[1];
static const flashc_cli_field *known = none;

void flashc_cli_library_fields(const flashc_cli_field *fields)
{
    known = fields;
}

/* "name: ..." or "name[1]: ...", not "name_v: ..." */
static int is_about(const char *message, const char *name)
{
    const size_t length = strlen(name);
    return strncmp(message, name, length) == 0 && message[length] != '_' && !isalnum((unsigned char)message[length]);
}

int flashc_cli_library_error(void)
{
    const char *message = flashc_last_error();
    for (const flashc_cli_field *field = known; field->name; field++)
        if (field->path && is_about(message, field->name))
            return flashc_cli_error("%s %s: %s", field->option, field->path, message);
    return flashc_cli_error("%s", message);
}
