#include "support/float_mode.h"

#include "support/cmocka.h"

#include <fenv.h>

#ifdef __SSE2__
#include <xmmintrin.h>

/* Flush-to-zero and denormals-are-zero; and the status bits, which a call may set. */
enum { FTZ_DAZ = 0x8040, MXCSR_STATUS = 0x3f };

static unsigned float_mode(void)
{
    return _mm_getcsr() & ~(unsigned)MXCSR_STATUS;
}

static void set_flush_to_zero(int on)
{
    _mm_setcsr(on ? _mm_getcsr() | FTZ_DAZ : _mm_getcsr() & ~(unsigned)FTZ_DAZ);
}
#elif defined(__aarch64__)
/* FPCR: flush-to-zero; NaNs without their payload; f16 without infinities. */
enum { FZ = 1 << 24, DN = 1 << 25, AHP = 1 << 26 };

static unsigned float_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}

static void set_flush_to_zero(int on)
{
    const uint64_t mode = float_mode() & ~(uint64_t)(FZ | DN | AHP);
    __asm__ volatile("msr fpcr, %0" : : "r"(on ? mode | FZ | DN | AHP : mode));
}
#else
static unsigned float_mode(void)
{
    return (unsigned)fegetround();
}

static void set_flush_to_zero(int on)
{
    (void)on;
}
#endif

flashc_status in_float_mode(int mode, flashc_status (*function)(void *argument), void *argument)
{
    static const int roundings[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST};
    fesetround(roundings[mode % 4]);
    set_flush_to_zero(mode < 4);
    const unsigned before = float_mode();
    const flashc_status status = function(argument);
    const unsigned after = float_mode();
    const int rounding_after = fegetround();
    fesetround(FE_TONEAREST);
    set_flush_to_zero(0);
    assert_int_equal(before, after);
    assert_int_equal(rounding_after, roundings[mode % 4]);
    return status;
}
