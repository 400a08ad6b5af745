// SPDX-License-Identifier: MIT
/* Message signalled interrupts: PCI Local Bus 3.0, sections 6.8.1 (MSI) and 6.8.2 (MSI-X).
 *
 * What a message needs is kept, under the function's msi_lock, apart from the configuration space,
 * so that devices' threads may send without the machine lock. A message that is masked, by its own
 * mask, the function's, or because the function must not be bus master, is pending and goes out
 * when that ends. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/pci.h"

/* MSI: offsets in the capability with a 64-bit address and masks. */
#define MSI_CONTROL     2
#define MSI_ADDRESS     4
#define MSI_DATA        12
#define MSI_MASK        16
#define MSI_PENDING     20
#define MSI_LEN         24
#define MSI_CTL_ENABLE  0x0001
#define MSI_CTL_64BIT   0x0080
#define MSI_CTL_MASKING 0x0100

#define MSIX_CONTROL    2
#define MSIX_TABLE      4
#define MSIX_PBA        8
#define MSIX_LEN        12
#define MSIX_CTL_ENABLE 0x8000
#define MSIX_CTL_MASKED 0x4000

/* An entry of the table. */
#define ENTRY_SIZE    16u
#define ENTRY_DATA    8
#define ENTRY_CONTROL 12
#define ENTRY_MASKED  1u

/* ---- sending ---- */

/* A message that was found sendable under the lock is sent after it: the local APICs have locks of
 * their own, and nothing here depends on what they do. */
struct message {
	u64 addr;
	u32 data;
};

static bool msix_sendable(const struct pci_func *f, unsigned n, struct message *m)
{
	const u8 *e = f->msix_table + (size_t)n * ENTRY_SIZE;

	if (!f->msix_on || f->msix_masked || !f->master ||
	    (get_le32(e + ENTRY_CONTROL) & ENTRY_MASKED))
		return false;
	*m = (struct message){get_le64(e), get_le32(e + ENTRY_DATA)};
	return true;
}

void pci_msix_notify(struct pci_func *f, unsigned vector)
{
	struct message m = {0};
	bool send = false;

	pthread_mutex_lock(&f->msi_lock);
	if (vector < f->msix_vectors) {
		send = msix_sendable(f, vector, &m);
		if (!send)
			f->msix_pba[vector / 64] |= BIT(vector % 64);
	}
	pthread_mutex_unlock(&f->msi_lock);
	if (send)
		pci_send_msi(f->host, m.addr, m.data);
}

/* What is pending and sendable now. */
static void msix_flush(struct pci_func *f)
{
	for (unsigned w = 0; w < (f->msix_vectors + 63u) / 64; w++) {
		for (;;) {
			struct message m = {0};
			bool send = false;
			u64 left;

			pthread_mutex_lock(&f->msi_lock);
			for (left = f->msix_pba[w]; left && !send; left &= left - 1) {
				unsigned bit = (unsigned)__builtin_ctzll(left);

				send = msix_sendable(f, w * 64 + bit, &m);
				if (send)
					f->msix_pba[w] &= ~BIT(bit);
			}
			pthread_mutex_unlock(&f->msi_lock);
			if (!send)
				break;
			pci_send_msi(f->host, m.addr, m.data);
		}
	}
}

static bool msi_sendable(const struct pci_func *f, unsigned n, struct message *m)
{
	if (!f->msi_on || !f->master || (f->msi_mask & 1u << n))
		return false;
	/* 6.8.1.6: the low bits of the data are the vector's number. */
	*m = (struct message){f->msi_address,
	                      (f->msi_data & ~(f->msi_enabled - 1u)) | (n & (f->msi_enabled - 1u))};
	return true;
}

void pci_msi_notify(struct pci_func *f, unsigned vector)
{
	struct message m = {0};
	bool send = false;

	pthread_mutex_lock(&f->msi_lock);
	if (vector < f->msi_vectors) {
		send = msi_sendable(f, vector, &m);
		if (!send)
			f->msi_pending |= 1u << vector;
	}
	pthread_mutex_unlock(&f->msi_lock);
	if (send)
		pci_send_msi(f->host, m.addr, m.data);
}

static void msi_flush(struct pci_func *f)
{
	for (unsigned n = 0; n < f->msi_vectors; n++) {
		struct message m = {0};
		bool send;

		pthread_mutex_lock(&f->msi_lock);
		send = (f->msi_pending & 1u << n) && msi_sendable(f, n, &m);
		if (send)
			f->msi_pending &= ~(1u << n);
		pthread_mutex_unlock(&f->msi_lock);
		if (send)
			pci_send_msi(f->host, m.addr, m.data);
	}
}

bool pci_msix_enabled(struct pci_func *f)
{
	bool on;

	pthread_mutex_lock(&f->msi_lock);
	on = f->msix_on;
	pthread_mutex_unlock(&f->msi_lock);
	return on;
}

bool pci_msi_enabled(struct pci_func *f)
{
	bool on;

	pthread_mutex_lock(&f->msi_lock);
	on = f->msi_on;
	pthread_mutex_unlock(&f->msi_lock);
	return on;
}

/* ---- registers ---- */

static void msi_take(struct pci_func *f)
{
	const u8 *c = f->config + f->msi_cap;
	u16 control = get_le16(c + MSI_CONTROL);
	unsigned vectors = 1u << (control >> 4 & 7);

	f->msi_on = control & MSI_CTL_ENABLE;
	f->msi_enabled = (u8)MIN(vectors, (unsigned)f->msi_vectors);
	f->msi_address = get_le64(c + MSI_ADDRESS);
	f->msi_data = get_le16(c + MSI_DATA);
	f->msi_mask = get_le32(c + MSI_MASK);
}

static void msix_take(struct pci_func *f)
{
	u16 control = get_le16(f->config + f->msix_cap + MSIX_CONTROL);

	f->msix_on = control & MSIX_CTL_ENABLE;
	f->msix_masked = control & MSIX_CTL_MASKED;
}

static void take(struct pci_func *f)
{
	pthread_mutex_lock(&f->msi_lock);
	f->master = get_le16(f->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
	if (f->msi_cap)
		msi_take(f);
	if (f->msix_cap)
		msix_take(f);
	pthread_mutex_unlock(&f->msi_lock);
}

/* The pending bits as the guest sees them. */
void pci_msi_config_read(struct pci_func *f)
{
	if (!f->msi_cap)
		return;
	pthread_mutex_lock(&f->msi_lock);
	put_le32(f->config + f->msi_cap + MSI_PENDING, f->msi_pending);
	pthread_mutex_unlock(&f->msi_lock);
}

void pci_msi_config_written(struct pci_func *f)
{
	take(f);
	if (f->msi_cap)
		msi_flush(f);
	if (f->msix_cap)
		msix_flush(f);
}

/* 6.8.2.9: entries are masked after a reset. */
void pci_msi_reset(struct pci_func *f)
{
	pthread_mutex_lock(&f->msi_lock);
	f->msi_pending = 0;
	for (unsigned n = 0; n < f->msix_vectors; n++) {
		memset(f->msix_table + (size_t)n * ENTRY_SIZE, 0, ENTRY_SIZE);
		put_le32(f->msix_table + (size_t)n * ENTRY_SIZE + ENTRY_CONTROL, ENTRY_MASKED);
	}
	if (f->msix_pba)
		memset(f->msix_pba, 0, (f->msix_vectors + 63u) / 64 * 8);
	pthread_mutex_unlock(&f->msi_lock);
	take(f);
}

/* Offset of the pending bits in the BAR: the table's length as a power of two. */
static u32 pba_offset(const struct pci_func *f)
{
	u32 len = 0x800;

	while (len < f->msix_vectors * ENTRY_SIZE)
		len *= 2;
	return len;
}

static const u8 *msix_at(const struct pci_func *f, u64 off, unsigned size)
{
	u64 pba = pba_offset(f), pba_len = (f->msix_vectors + 63u) / 64 * 8;

	if (off & (size - 1))
		return NULL;
	if (off < f->msix_vectors * ENTRY_SIZE)
		return f->msix_table + off;
	if (off >= pba && off - pba < pba_len)
		return (const u8 *)f->msix_pba + (off - pba);
	return NULL;
}

static u64 msix_read(void *dev, u64 off, unsigned size)
{
	struct pci_func *f = dev;
	const u8 *at = msix_at(f, off, size);
	u64 v = 0;

	if (!at)
		return 0; /* reserved */
	pthread_mutex_lock(&f->msi_lock);
	memcpy(&v, at, size);
	pthread_mutex_unlock(&f->msi_lock);
	return v;
}

static void msix_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pci_func *f = dev;

	if ((off & (size - 1)) || off >= f->msix_vectors * ENTRY_SIZE)
		return; /* pending bits are read-only */
	pthread_mutex_lock(&f->msi_lock);
	memcpy(f->msix_table + off, &val, size);
	/* Reserved bits of the control word stay clear. */
	f->msix_table[(off & ~15ull) + ENTRY_CONTROL] &= ENTRY_MASKED;
	memset(f->msix_table + (off & ~15ull) + ENTRY_CONTROL + 1, 0, 3);
	pthread_mutex_unlock(&f->msi_lock);
	msix_flush(f);
}

static const struct region_ops msix_ops = {msix_read, msix_write};

/* ---- capabilities ---- */

void pci_add_msi(struct pci_func *f, unsigned vectors)
{
	unsigned log2 = (unsigned)__builtin_ctz(vectors);
	u8 off;

	if (!vectors || vectors > 32 || (vectors & (vectors - 1)))
		bug("%s: %u MSI vectors", f->name, vectors);
	off = pci_add_capability(f, PCI_CAP_ID_MSI, MSI_LEN);
	put_le16(f->config + off + MSI_CONTROL, (u16)(MSI_CTL_64BIT | MSI_CTL_MASKING | log2 << 1));
	pci_set_writable(f, off + MSI_CONTROL, MSI_CTL_ENABLE | 0x70, 2);
	pci_set_writable(f, off + MSI_ADDRESS, ~3u, 4);
	pci_set_writable(f, off + MSI_ADDRESS + 4, ~0u, 4);
	pci_set_writable(f, off + MSI_DATA, 0xffff, 2);
	pci_set_writable(f, off + MSI_MASK, (u32)(BIT(vectors) - 1), 4);
	f->msi_cap = off;
	f->msi_vectors = (u8)vectors;
	take(f);
}

int pci_add_msix(struct pci_func *f, unsigned bar, unsigned vectors)
{
	const struct region r = {.min_size = 4, .max_size = 8, .ops = &msix_ops, .dev = f};
	u8 off;

	if (!vectors || vectors > PCI_MSIX_MAX)
		bug("%s: %u MSI-X vectors", f->name, vectors);
	f->msix_table = calloc(vectors, ENTRY_SIZE);
	f->msix_pba = calloc((vectors + 63) / 64, 8);
	if (!f->msix_table || !f->msix_pba)
		return -ENOMEM; /* unplug frees */
	f->msix_vectors = (u16)vectors;
	off = pci_add_capability(f, PCI_CAP_ID_MSIX, MSIX_LEN);
	put_le16(f->config + off + MSIX_CONTROL, (u16)(vectors - 1));
	put_le32(f->config + off + MSIX_TABLE, bar);
	put_le32(f->config + off + MSIX_PBA, pba_offset(f) | bar);
	pci_set_writable(f, off + MSIX_CONTROL, MSIX_CTL_ENABLE | MSIX_CTL_MASKED, 2);
	f->msix_cap = off;
	pci_add_bar(f, bar, PCI_BAR_MEM64, MAX(2u * pba_offset(f), (u32)PAGE_SIZE), &r);
	pci_msi_reset(f);
	return 0;
}
