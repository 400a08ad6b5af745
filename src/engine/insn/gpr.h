/* SPDX-License-Identifier: MIT */
/* General registers by Zydis's names for them. */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"

/* General registers are asked for often, and Zydis's own functions are slow: it numbers them
 * AL..BL, AH..BH, SPL..DIL, R8B..R15B, then 16 of each wider size. */
_Static_assert(ZYDIS_REGISTER_AH == ZYDIS_REGISTER_AL + 4 &&
                       ZYDIS_REGISTER_SPL == ZYDIS_REGISTER_AL + 8 &&
                       ZYDIS_REGISTER_AX == ZYDIS_REGISTER_AL + 20 &&
                       ZYDIS_REGISTER_EAX == ZYDIS_REGISTER_AX + 16 &&
                       ZYDIS_REGISTER_RAX == ZYDIS_REGISTER_EAX + 16 &&
                       ZYDIS_REGISTER_R15 == ZYDIS_REGISTER_RAX + 15,
               "order of registers");

static inline bool reg_is_gpr(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15;
}

static inline unsigned gpr_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AX)
		return (unsigned)(r - ZYDIS_REGISTER_AX) & 15;
	return (unsigned)(r < ZYDIS_REGISTER_AH ? r - ZYDIS_REGISTER_AL : r - ZYDIS_REGISTER_AH);
}

/* log2 of its bytes */
static inline unsigned gpr_size(ZydisRegister r)
{
	return r < ZYDIS_REGISTER_AX ? 0 : 1 + (unsigned)(r - ZYDIS_REGISTER_AX) / 16;
}

static inline bool reg_is_high8(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* The number of any register. */
static inline unsigned reg_number(ZydisRegister r)
{
	if (likely(reg_is_gpr(r)))
		return gpr_number(r);
	return (unsigned)ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}
