/* SPDX-License-Identifier: MIT */
/* Selectors and addresses that the assembler and C share. */
#pragma once

#define SEL_CODE  0x08
#define SEL_DATA  0x10
#define SEL_USER  0x18 /* base of SYSRET's selectors: data + 8, 64-bit code + 16 */
#define SEL_UDATA 0x20
#define SEL_UCODE 0x28
#define SEL_TSS   0x30

#define VEC_DE   0
#define VEC_PF   14
#define VEC_DONE 0x80 /* ring 3 has finished */

/* The second GiB: page 0 is present, page 1 never. */
#define TEST_VA   0x40000000
#define ABSENT_VA 0x40001000
