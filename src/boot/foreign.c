// SPDX-License-Identifier: MIT
/* Files that people give as a kernel by mistake, told by their magic numbers, so that the message
 * can say what to do. Only reached when no loader took the file. */
#include <string.h>

#include "boot/image.h"

static const struct {
	u32 offset;
	u32 size;
	const char *bytes;
	const char *message;
} known[] = {
	{0x38, 4, "ARM\x64", "is a kernel for arm64 (Image), not for x86; try a kernel for x86-64"},
	{0x24, 4, "\x18\x28\x6f\x01",
         "is a kernel for 32-bit ARM (zImage), not for x86; try a kernel for "
         "x86-64"},
	{0x38, 4, "RSC\x05",
         "is a kernel for RISC-V (Image), not for x86; try a kernel for x86-64"},
	{0, 4, "\x27\x05\x19\x56",
         "is a U-Boot image (uImage), not an x86 kernel; try a kernel for "
         "x86-64"},
	{0, 4, "\xd0\x0d\xfe\xed",
         "is a device tree or FIT image, not an x86 kernel; try a kernel for "
         "x86-64"},
	{0, 2, "\x1f\x8b", "is compressed with gzip; unpack it first: gunzip < FILE > vmlinux"},
	{0, 6,
         "\xfd"
         "7zXZ\0",
         "is compressed with xz; unpack it first: xz -dc FILE > vmlinux"},
	{0, 3, "BZh", "is compressed with bzip2; unpack it first: bunzip2 < FILE > vmlinux"},
	{0, 4, "\x28\xb5\x2f\xfd",
         "is compressed with zstd; unpack it first: zstd -dc FILE > vmlinux"},
	{0, 4, "\x02\x21\x4c\x18",
         "is compressed with lz4; unpack it first: lz4 -dc FILE > vmlinux"},
	{0, 4, "\x04\x22\x4d\x18",
         "is compressed with lz4; unpack it first: lz4 -dc FILE > vmlinux"},
	{0, 6, "070701",
         "is an initramfs (cpio archive); give it as the initrd and a vmlinuz as the "
         "kernel"},
	{0, 2, "\xc7\x71", "is a cpio archive; give it as the initrd and a vmlinuz as the kernel"},
	{0, 8, "!<arch>\n",
         "is an archive or Debian package; unpack it first: dpkg-deb -x FILE DIR"},
	{0, 4, "QFI\xfb", "is a disk image (qcow2); take the kernel out of it (its /boot/vmlinuz)"},
	{0x8001, 5, "CD001", "is a CD image (ISO 9660); take the kernel out of it"},
	{0, 2, "#!", "is a script, not a kernel; try the vmlinuz of an x86-64 Linux"},
	{4, 4, "zimg", "is an EFI zboot kernel for another architecture; try a kernel for x86-64"},
	{0, 2, "MZ",
         "is an EFI or Windows program, not a kernel; from a unified kernel image take the "
         "kernel with objcopy -O binary -j .linux FILE vmlinuz"},
	{0x1fe, 2, "\x55\xaa",
         "is a boot sector or disk image, not a kernel; take the kernel out of it "
         "(its /boot/vmlinuz)"},
};

const char *boot_foreign(const u8 *data, u64 size)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (size >= known[i].offset + known[i].size &&
		    !memcmp(data + known[i].offset, known[i].bytes, known[i].size))
			return known[i].message;
	return NULL;
}
