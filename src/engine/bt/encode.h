/* SPDX-License-Identifier: MIT */
/* The guest's innocuous instructions in translated code: what the translator asks about one
 * (engine/insn/insn.h) and its re-encoding with other registers and another memory operand
 * (engine/insn/encode.h), which the interpreter's stubs use too. */
#pragma once

#include "engine/insn/encode.h"
#include "engine/insn/gpr.h"
#include "engine/insn/insn.h"

/* `feat`: insn_features(c). Returns info->allowed: bt_encode() and go; info->special: interp. */
static inline bool bt_insn_info(struct insn_info *info, u64 feat, const ZydisDecodedInstruction *i,
                                const ZydisDecodedOperand *ops)
{
	return insn_info_get(info, feat, i, ops);
}

/* Length, or 0: can't be encoded so. */
static inline unsigned bt_encode(u8 out[ENC_MAX], const ZydisDecodedInstruction *i,
                                 const ZydisDecodedOperand *ops, const u8 *bytes,
                                 const struct enc_map *m, struct enc_verified *verified)
{
	return insn_encode(out, i, ops, bytes, m, verified);
}
