// SPDX-License-Identifier: MIT
#include "fuzz_boot.h"

#include <elf.h>

#define SIZE    0x400
#define HEADERS (sizeof(Elf32_Ehdr) + 2 * sizeof(Elf32_Phdr) + 32)

/* An ELF32 file with a multiboot header that has address fields, too: with flag bit 16 they count,
 * without it the program headers do. */
static size_t make(u8 *data, size_t max, u32 flags)
{
	Elf32_Ehdr *e = (Elf32_Ehdr *)data;
	Elf32_Phdr *ph = (Elf32_Phdr *)(e + 1);
	u8 *h = (u8 *)(ph + 2);
	u32 offset = (u32)(h - data);

	if (max < SIZE)
		return 0;
	memset(data, 0, SIZE);
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS32;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_type = ET_EXEC;
	e->e_machine = EM_386;
	e->e_entry = 0x100020;
	e->e_phoff = sizeof(*e);
	e->e_phentsize = sizeof(*ph);
	e->e_phnum = 2;
	ph[0] = (Elf32_Phdr){
		.p_type = PT_LOAD, .p_paddr = 0x100000, .p_filesz = 0x200, .p_memsz = 0x200};
	ph[1] = (Elf32_Phdr){
		.p_type = PT_LOAD, .p_paddr = 0x8000, .p_filesz = 0x10, .p_memsz = 0x1000};
	put_le32(h, 0x1badb002);
	put_le32(h + 4, flags);
	put_le32(h + 8, 0u - 0x1badb002 - flags);
	put_le32(h + 12, 0x100000 + offset);
	put_le32(h + 16, 0x100000);
	put_le32(h + 20, 0x100300);
	put_le32(h + 24, 0x101000);
	put_le32(h + 28, 0x100040);
	return SIZE;
}

static size_t valid_elf(u8 *data, size_t max)
{
	return make(data, max, 3);
}

static size_t valid_flat(u8 *data, size_t max)
{
	return make(data, max, 0x10003);
}

size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max, unsigned seed)
{
	size_t n = fuzz_boot_mutate(data, size, max, seed, seed & 0x10000 ? valid_elf : valid_flat,
	                            0, HEADERS);
	u8 *h = data + sizeof(Elf32_Ehdr) + 2 * sizeof(Elf32_Phdr);

	/* Mostly with a checksum that fits, or nothing behind it is ever reached. */
	if (n >= HEADERS && seed & 0x70000) {
		put_le32(h, 0x1badb002);
		put_le32(h + 8, 0u - 0x1badb002 - get_le32(h + 4));
	}
	return n;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	fuzz_boot(data, size);
	return 0;
}
