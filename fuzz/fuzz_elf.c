// SPDX-License-Identifier: MIT
#include "fuzz_boot.h"

#include <elf.h>

#define SIZE    0x400
#define HEADERS (sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr) + 64)

/* Two segments and a note behind the headers, inside what `headers` covers. */
static size_t valid(u8 *data, size_t max)
{
	Elf64_Ehdr *e = (Elf64_Ehdr *)data;
	Elf64_Phdr *ph = (Elf64_Phdr *)(e + 1);
	u8 *note = (u8 *)(ph + 3);

	if (max < SIZE)
		return 0;
	memset(data, 0, SIZE);
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS64;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_type = ET_EXEC;
	e->e_machine = EM_X86_64;
	e->e_phoff = sizeof(*e);
	e->e_phentsize = sizeof(*ph);
	e->e_phnum = 3;
	ph[0] = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_paddr = 0x100000, .p_filesz = 0x200, .p_memsz = 0x3000};
	ph[1] = (Elf64_Phdr){.p_type = PT_LOAD,
	                     .p_offset = 0x200,
	                     .p_paddr = 0x10000,
	                     .p_filesz = 0x200,
	                     .p_memsz = 0x200};
	ph[2] = (Elf64_Phdr){
		.p_type = PT_NOTE, .p_offset = (u64)(note - data), .p_filesz = 24, .p_align = 4};
	put_le32(note, 4);
	put_le32(note + 4, 8);
	put_le32(note + 8, 18);
	memcpy(note + 12, "Xen", 4);
	put_le32(note + 16, 0x100010);
	return SIZE;
}

static size_t valid32(u8 *data, size_t max)
{
	Elf32_Ehdr *e = (Elf32_Ehdr *)data;
	Elf32_Phdr *ph = (Elf32_Phdr *)(e + 1);
	u8 *note = (u8 *)(ph + 2);

	if (max < SIZE)
		return 0;
	memset(data, 0, SIZE);
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS32;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_type = ET_EXEC;
	e->e_machine = EM_386;
	e->e_phoff = sizeof(*e);
	e->e_phentsize = sizeof(*ph);
	e->e_phnum = 2;
	ph[0] = (Elf32_Phdr){
		.p_type = PT_LOAD, .p_paddr = 0x100000, .p_filesz = 0x200, .p_memsz = 0x3000};
	ph[1] = (Elf32_Phdr){
		.p_type = PT_NOTE, .p_offset = (u32)(note - data), .p_filesz = 20, .p_align = 4};
	put_le32(note, 4);
	put_le32(note + 4, 4);
	put_le32(note + 8, 18);
	memcpy(note + 12, "Xen", 4);
	put_le32(note + 16, 0x100010);
	return SIZE;
}

size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max, unsigned seed)
{
	return fuzz_boot_mutate(data, size, max, seed, seed & 0x10000 ? valid : valid32, 0,
	                        HEADERS);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	fuzz_boot(data, size);
	return 0;
}
