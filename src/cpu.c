#include "config.h"
#include "cpu.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

static const struct {
    unsigned bit;
    const char *name, *missing;
} feature_names[] = {
    {FLASHC_CPU_AVX2, "avx2", "the CPU has no avx2, or it is disabled"},
    {FLASHC_CPU_FMA, "fma", "the CPU has no fma, or it is disabled"},
    {FLASHC_CPU_F16C, "f16c", "the CPU has no f16c, or it is disabled"},
    {FLASHC_CPU_AVX512F, "avx512f", "the CPU has no avx512f, or it is disabled"},
    {FLASHC_CPU_AVX512BF16, "avx512bf16", "the CPU has no avx512bf16, or it is disabled"},
    {FLASHC_CPU_NEON, "neon", "the CPU has no neon, or it is disabled"},
    {FLASHC_CPU_BF16, "bf16", "the CPU has no bf16 instructions, or they are disabled"},
};
enum { NUM_FEATURES = sizeof feature_names / sizeof feature_names[0] };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static unsigned present, features; /* of the CPU; less those disabled */
static char feature_text[64];
static int quota_cpus; /* 0: no quota */
static int amd_family;

static unsigned detect_features(void)
{
    unsigned found = 0;
#if defined(__x86_64__)
    /* The compiler's runtime also asks XGETBV whether the operating system saves the registers. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        found |= FLASHC_CPU_AVX2;
    if (__builtin_cpu_supports("fma"))
        found |= FLASHC_CPU_FMA;
#if FLASHC_EMULATE_AVX512
    if (found & FLASHC_CPU_AVX2)
        found |= FLASHC_CPU_AVX512F | FLASHC_CPU_AVX512BF16;
#else
    if (__builtin_cpu_supports("avx512f"))
        found |= FLASHC_CPU_AVX512F;
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw"))
        found |= FLASHC_CPU_AVX512BF16;
#endif
    /* gcc 12 and clang 14 do not know "f16c" by name; CPUID leaf 1, ECX bit 29. Its registers are
     * AVX's, so AVX2's support by the operating system covers it. */
    unsigned eax = 1, ebx, ecx = 0, edx;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if ((found & FLASHC_CPU_AVX2) && (ecx & (1u << 29)))
        found |= FLASHC_CPU_F16C;
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMD) /* Linux's name for NEON */
        found |= FLASHC_CPU_NEON;
    if (getauxval(AT_HWCAP2) & HWCAP2_BF16)
        found |= FLASHC_CPU_BF16;
#endif
    return found;
}

/* True if name is one of the comma-separated words of list. */
static bool list_contains(const char *list, const char *name)
{
    size_t length = strlen(name);
    while (*list) {
        size_t word = strcspn(list, ", ");
        if (word == length && strncmp(list, name, length) == 0)
            return true;
        list += word + (list[word] != '\0');
    }
    return false;
}

/* Reads up to two numbers of a small file; "max" and absent ones stay as they were. */
static bool read_numbers(const char *path, long long *first, long long *second)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool ok = fscanf(file, "%lld %lld", first, second) >= 1;
    fclose(file);
    return ok;
}

static int cpus_of_quota(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    return (int)flashc_min(flashc_ceil_div(quota, period), 1 << 20);
}

static int smaller_quota(int a, int b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The quota of this process's cgroup and of every group above it: the tightest one counts. */
static int quota_of_group(const char *mount, const char *group, bool version2)
{
    char path[2048];
    int tightest = 0;
    size_t length = strlen(group);
    for (;;) {
        long long quota = -1, period = -1;
        snprintf(path, sizeof path, "%s%.*s/%s", mount, (int)length, group, version2 ? "cpu.max" : "cpu.cfs_quota_us");
        if (read_numbers(path, &quota, &period) && !version2) {
            snprintf(path, sizeof path, "%s%.*s/cpu.cfs_period_us", mount, (int)length, group);
            long long unused = 0;
            read_numbers(path, &period, &unused);
        }
        tightest = smaller_quota(tightest, cpus_of_quota(quota, period));
        if (length == 0)
            return tightest;
        do
            length--;
        while (length > 0 && group[length] != '/');
    }
}

int flashc_cpu_quota(const char *groups, const char *mount)
{
    /* Lines are "id:controllers:path"; version 2 has id 0 and no controllers. Inside a container the
     * path may not exist under the mount; walking up to the mount's root covers that. */
    FILE *file = fopen(groups, "re");
    if (!file)
        return 0;
    char line[2048], mount1[512];
    snprintf(mount1, sizeof mount1, "%s/cpu", mount);
    int tightest = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *colon = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!colon)
            continue;
        *colon = '\0';
        controllers++;
        const char *group = strcmp(colon + 1, "/") == 0 ? "" : colon + 1;
        if (*controllers == '\0')
            tightest = smaller_quota(tightest, quota_of_group(mount, group, true));
        else if (list_contains(controllers, "cpu"))
            tightest = smaller_quota(tightest, quota_of_group(mount1, group, false));
    }
    fclose(file);
    return tightest;
}

static int detect_amd_family(void)
{
#if defined(__x86_64__)
    /* CPUID leaf 1, EAX: 4 bits of family, and 8 more to add where they are all set. */
    __builtin_cpu_init();
    unsigned eax = 1, ebx, ecx = 0, edx;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return __builtin_cpu_is("amd") ? (int)(((eax >> 8) & 0xf) + ((eax >> 20) & 0xff)) : 0;
#else
    return 0;
#endif
}

/* Once: in a virtual machine each CPUID traps to the host (2 microseconds). */
static void detect(void)
{
    present = features = detect_features();
    amd_family = detect_amd_family();
    const char *disabled = getenv("FLASHC_DISABLE_CPU_FEATURES");
    size_t used = 0;
    for (size_t i = 0; i < NUM_FEATURES; i++) {
        if (disabled && list_contains(disabled, feature_names[i].name))
            features &= ~feature_names[i].bit;
        if (features & feature_names[i].bit)
            used += (size_t)snprintf(feature_text + used, sizeof feature_text - used, "%s%s", used ? " " : "",
                                     feature_names[i].name);
    }
    quota_cpus = flashc_cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
}

unsigned flashc_cpu_features(void)
{
    pthread_once(&once, detect);
    return features;
}

bool flashc_cpu_can_run(unsigned needed)
{
    pthread_once(&once, detect);
    return (needed & ~present) == 0;
}

int flashc_cpu_amd_family(void)
{
    pthread_once(&once, detect);
    return amd_family;
}

const char *flashc_cpu_feature_names(void)
{
    pthread_once(&once, detect);
    return feature_text;
}

const char *flashc_cpu_missing(unsigned needed)
{
    unsigned missing = needed & ~flashc_cpu_features();
    for (size_t i = 0; i < NUM_FEATURES; i++)
        if (missing & feature_names[i].bit)
            return feature_names[i].missing;
    return NULL;
}

int flashc_cpu_count(void)
{
    pthread_once(&once, detect);
    cpu_set_t set; /* 1024 CPUs; larger machines fail here and use all that are online */
    int count;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
    else
        count = (int)flashc_min(sysconf(_SC_NPROCESSORS_ONLN), 1 << 20);
    if (quota_cpus > 0 && quota_cpus < count)
        count = quota_cpus;
    return count > 0 ? count : 1;
}

static bool forked_child;

static void note_child(void)
{
    forked_child = true;
}

/* At load and not at the first call: the parent's OpenMP regions may all have been the host's own. */
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, note_child);
}

bool flashc_cpu_is_forked_child(void)
{
    return forked_child;
}

#if defined(__x86_64__)
enum { MXCSR_DEFAULT = 0x1f80 }; /* all exceptions masked, round to nearest, no FTZ, no DAZ */

unsigned flashc_cpu_default_float_mode(void)
{
    unsigned mode = _mm_getcsr();
    _mm_setcsr(MXCSR_DEFAULT);
    return mode;
}

void flashc_cpu_restore_float_mode(unsigned mode)
{
    _mm_setcsr(mode);
}
#elif defined(__aarch64__)
unsigned flashc_cpu_default_float_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return (unsigned)mode;
}

void flashc_cpu_restore_float_mode(unsigned mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
}
#else
unsigned flashc_cpu_default_float_mode(void)
{
    return 0;
}

void flashc_cpu_restore_float_mode(unsigned mode)
{
    (void)mode;
}
#endif
