// SPDX-License-Identifier: MIT
#include "fuzz_boot.h"

#include <asm/bootparam.h>

#define SIZE (5 * 512 + 0x400)

static size_t valid(u8 *data, size_t max)
{
	struct setup_header *h = (struct setup_header *)(data + 0x1f1);

	if (max < SIZE)
		return 0;
	memset(data, 0, SIZE);
	h->setup_sects = 4;
	h->syssize = 0x40;
	h->boot_flag = 0xaa55;
	h->jump = 0x6aeb;
	h->header = 0x53726448;
	h->version = 0x020f;
	h->loadflags = LOADED_HIGH;
	h->initrd_addr_max = 0x7fffffff;
	h->kernel_alignment = 0x200000;
	h->relocatable_kernel = 1;
	h->xloadflags = XLF_KERNEL_64;
	h->cmdline_size = 255;
	h->pref_address = 0x100000;
	h->init_size = 0x80000;
	return SIZE;
}

size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max, unsigned seed)
{
	return fuzz_boot_mutate(data, size, max, seed, valid, 0x1f1, 0x7f);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	fuzz_boot(data, size);
	return 0;
}
