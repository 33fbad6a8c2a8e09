/* What this machine offers: CPU features that kernels ask for, threads that this process may use,
 * the floating-point mode, and whether this process is a forked child. */
#ifndef FLASHC_CPU_H
#define FLASHC_CPU_H

#include "common.h"

enum {
    FLASHC_CPU_AVX2 = 1u << 0,
    FLASHC_CPU_FMA = 1u << 1,
    FLASHC_CPU_F16C = 1u << 2,
    FLASHC_CPU_AVX512F = 1u << 3,
    FLASHC_CPU_NEON = 1u << 4,
    FLASHC_CPU_AVX512BF16 = 1u << 5, /* AVX512_BF16 and AVX512BW, which all CPUs of the first have */
    FLASHC_CPU_BF16 = 1u << 6, /* Arm's bf16 instructions on NEON registers */
};

/* Features that the CPU and the operating system support, less those in the environment variable
 * FLASHC_DISABLE_CPU_FEATURES. Read once. */
unsigned flashc_cpu_features(void);

/* Whether the CPU and the operating system support all of these, disabled or not: for code that is not flashc's own. */
bool flashc_cpu_can_run(unsigned needed);

/* Their names, space-separated; the text lives as long as the process. */
const char *flashc_cpu_feature_names(void);

/* A sentence on the first of `needed` that is not there; NULL if all are. */
const char *flashc_cpu_missing(unsigned needed);

/* 23 of AMD's Zen and Zen 2, 25 of Zen 3 and 4, 26 of Zen 5; 0 of others' CPUs. (Which of two ways is faster can depend
 * on the make.) */
int flashc_cpu_amd_family(void);
enum { FLASHC_AMD_ZEN_3_AND_4 = 25, FLASHC_AMD_ZEN_5 = 26 };

/* CPUs in this thread's affinity mask, limited by the cgroup CPU quota (v1 and v2, rounded up; the
 * quota is read once). At least 1. */
int flashc_cpu_count(void);

/* CPUs' worth of time that the cgroups of a process may use, 0 for no limit: groups is its /proc/PID/cgroup,
 * mount where the hierarchies are (version 1's under mount/cpu). The tightest group on the way up counts;
 * part of a CPU counts as one. */
int flashc_cpu_quota(const char *groups, const char *mount);

/* True in a child of fork(): libgomp's workers do not survive it, so the child stays serial. */
bool flashc_cpu_is_forked_child(void);

/* Puts this thread's floating-point mode (rounding, flush-to-zero) to IEEE defaults and returns the
 * old mode for flashc_cpu_restore_float_mode(). libgomp's workers keep the mode of the thread that
 * first made them, so every worker does this for itself. */
unsigned flashc_cpu_default_float_mode(void);
void flashc_cpu_restore_float_mode(unsigned mode);

static inline void flashc_cpu_leave_float_mode(const unsigned *caller_mode)
{
    flashc_cpu_restore_float_mode(*caller_mode);
}

/* A declaration: from here to the end of its block, however that is left, this thread is in the default mode. */
#define FLASHC_IN_DEFAULT_FLOAT_MODE                                                                                  \
    __attribute__((cleanup(flashc_cpu_leave_float_mode), unused)) const unsigned caller_float_mode =                  \
        flashc_cpu_default_float_mode()

#endif
