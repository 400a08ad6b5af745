/* SPDX-License-Identifier: MIT */
/* MC146818A real-time clock and the PC's CMOS memory, ports 0x70/0x71, IRQ 8.
 * Threading: the machine lock. */
#pragma once

#include "bus/dev.h"

struct rtc;

struct rtc_config {
	bool localtime;    /* the clock starts with the host's local time, else UTC */
	unsigned nr_vcpus; /* for firmware: CMOS 0x5f */
	/* Host wall clock in ns since 1970; NULL: CLOCK_REALTIME. For tests. */
	u64 (*clock)(void *arg);
	void *clock_arg;
};

#define RTC_PORT        0x70
#define RTC_IRQ         8
#define RTC_CENTURY     0x32 /* for the FADT */
#define RTC_NVRAM_FIRST 0x0e /* bytes below belong to the clock */
#define RTC_NVRAM_SIZE  128
#define RTC_SHUTDOWN    0x0f /* shutdown status, "reset code" */

/* env->pmap gives the memory sizes. 0 or -errno (logged). */
int rtc_create(struct rtc **out, const struct dev_env *env, const struct rtc_config *cfg);

/* NVRAM bytes, for the machine: index RTC_NVRAM_FIRST .. RTC_NVRAM_SIZE - 1, not RTC_CENTURY. */
u8 rtc_nvram_get(const struct rtc *r, u8 index);
void rtc_nvram_set(struct rtc *r, u8 index, u8 val);
