/* Coefficients of the minimax polynomial 1 + c1 f + ... + c6 f^6 for 2^f on [-1/2, 1/2], relative
 * weight, constant term held at 1 so that 2^0 is exactly 1. Relative error 1.6e-8, a quarter of
 * u = 2^-24; degree 5 would have 1.8 u for one FMA less of about 13 operations. */
#ifndef FLASHC_F32_EXP2_H
#define FLASHC_F32_EXP2_H

#define FLASHC_EXP2_C1 0x1.62e430p-1f
#define FLASHC_EXP2_C2 0x1.ebfbdcp-3f
#define FLASHC_EXP2_C3 0x1.c6aee8p-5f
#define FLASHC_EXP2_C4 0x1.3b2d4cp-7f
#define FLASHC_EXP2_C5 0x1.5f3e54p-10f
#define FLASHC_EXP2_C6 0x1.41fbbap-13f

#endif
