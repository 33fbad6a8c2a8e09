#include "cli/proc.h"

#include <stdio.h>
#include <string.h>

const char *flashc_proc_line(const char *path, char *line, int size)
{
    line[0] = '\0';
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        if (fgets(line, size, file) == NULL)
            line[0] = '\0';
        line[strcspn(line, "\n")] = '\0';
        fclose(file);
    }
    return line;
}

int64_t flashc_proc_number(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -1;
    char line[256];
    long long value = -1;
    const size_t length = strlen(key);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, length) == 0 && sscanf(line + length, "%lld", &value) == 1)
            break;
    }
    fclose(file);
    return value;
}

const char *flashc_proc_cpu_name(char *name, int size)
{
    snprintf(name, (size_t)size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file == NULL)
        return name;
    char line[256];
    while (fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || value == NULL)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, (size_t)size, "%s", value + 1 + strspn(value + 1, " "));
        break;
    }
    fclose(file);
    return name;
}

int64_t flashc_proc_available_memory(int64_t unknown)
{
    int64_t available = flashc_proc_number("/proc/meminfo", "MemAvailable:");
    available = available < 0 ? unknown : available * 1024;
    /* A container's limit: cgroup version 2 ("max", which is no number, means none), then 1. */
    static const char *const limits[2][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
    };
    for (int i = 0; i < 2; i++) {
        const int64_t limit = flashc_proc_number(limits[i][0], ""), used = flashc_proc_number(limits[i][1], "");
        if (limit >= 0 && used >= 0 && limit - used < available)
            available = limit > used ? limit - used : 0;
    }
    return available;
}

int64_t flashc_proc_peak_start(void)
{
    /* "5" sets the peak back to what is resident now; without it an earlier peak could hide a later one. */
    FILE *file = fopen("/proc/self/clear_refs", "we");
    if (file == NULL)
        return -1;
    const int written = fputs("5", file);
    if (fclose(file) != 0 || written < 0)
        return -1;
    return flashc_proc_number("/proc/self/status", "VmRSS:");
}

int64_t flashc_proc_peak_since(int64_t mark)
{
    const int64_t peak = flashc_proc_number("/proc/self/status", "VmHWM:");
    if (mark < 0 || peak < 0)
        return -1;
    return peak > mark ? (peak - mark) * 1024 : 0;
}
