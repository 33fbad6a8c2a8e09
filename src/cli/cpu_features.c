#include "cli/cpu_features.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_SIZE = 256 };

/* Those of src/cpu.c, which flashc.h does not tell: tests/cli/test_info.py compares them. */
const char flashc_cli_cpu_features[] = "avx2, fma, f16c, avx512f, avx512bf16, neon, bf16";

static const char separators[] = ", ";

static int is_known(const char *word, size_t length)
{
    for (const char *name = flashc_cli_cpu_features; *name; name += strspn(name, separators)) {
        const size_t n = strcspn(name, separators);
        if (n == length && strncmp(name, word, n) == 0)
            return 1;
        name += n;
    }
    return 0;
}

const char *flashc_cli_unknown_cpu_features(char *text, size_t size)
{
    const char *word = getenv("FLASHC_DISABLE_CPU_FEATURES");
    size_t used = 0;
    text[0] = '\0';
    for (size_t length; word && *(word += strspn(word, separators)); word += length) {
        length = strcspn(word, separators);
        if (!is_known(word, length) && length + 2 <= size - used)
            used += (size_t)snprintf(text + used, size - used, "%s%.*s", used ? " " : "", (int)length, word);
    }
    return text;
}

void flashc_cli_warn_of_cpu_features(void)
{
    char text[TEXT_SIZE];
    if (*flashc_cli_unknown_cpu_features(text, sizeof text))
        fprintf(stderr, "flashc-run: warning: FLASHC_DISABLE_CPU_FEATURES: expected names of %s, found %s\n",
                flashc_cli_cpu_features, text);
}
