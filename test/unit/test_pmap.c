// SPDX-License-Identifier: MIT
/* Guest RAM: slots around the holes, copies, code marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "mem/pmap.h"

static struct pmap *make(u64 size)
{
	struct pmap *p = NULL;

	assert_int_equal(pmap_create(&p, size), 0);
	return p;
}

static void test_small(void **state)
{
	struct pmap *p = make(64 * MiB);
	struct pmap_range r[PMAP_MAX_SLOTS];

	assert_int_equal(pmap_ranges(p, r, PMAP_MAX_SLOTS), 2);
	assert_int_equal(r[0].base, 0);
	assert_int_equal(r[0].size, 640 * KiB);
	assert_int_equal(r[1].base, 768 * KiB);
	assert_int_equal(r[1].base + r[1].size, 64 * MiB);
	assert_non_null(pmap_slot(p, 0x9ffff));
	assert_null(pmap_slot(p, 0xa0000));
	assert_null(pmap_slot(p, 0xbffff));
	assert_non_null(pmap_slot(p, 0xc0000));
	assert_non_null(pmap_slot(p, 64 * MiB - 1));
	assert_null(pmap_slot(p, 64 * MiB));
	assert_null(pmap_slot(p, PCI_HOLE_END));
	assert_null(pmap_slot(p, ~0ull));
	pmap_destroy(p);
}

static void test_pci_hole(void **state)
{
	struct pmap *p = make(4 * GiB);
	struct pmap_range r[PMAP_MAX_SLOTS];

	assert_int_equal(pmap_ranges(p, r, PMAP_MAX_SLOTS), 3);
	assert_int_equal(r[1].base + r[1].size, PCI_HOLE_START);
	assert_int_equal(r[2].base, PCI_HOLE_END);
	assert_int_equal(r[2].size, GiB);
	assert_int_equal(pmap_ranges(p, r, 1), 1);
	assert_non_null(pmap_slot(p, PCI_HOLE_START - 1));
	assert_null(pmap_slot(p, PCI_HOLE_START));
	assert_null(pmap_slot(p, PCI_HOLE_END - 1));
	assert_non_null(pmap_slot(p, PCI_HOLE_END));
	assert_non_null(pmap_slot(p, 5 * GiB - 1));
	assert_null(pmap_slot(p, 5 * GiB));
	/* the high part is other memory than the low one, and sparse */
	memset(pmap_ptr(p, PCI_HOLE_END, 8), 0x5a, 8);
	assert_int_equal(*pmap_ptr(p, PCI_HOLE_START - 8, 8), 0);
	assert_int_equal(*pmap_ptr(p, 5 * GiB - 1, 1), 0);
	pmap_destroy(p);
	p = make(PCI_HOLE_START);
	assert_int_equal(pmap_ranges(p, r, PMAP_MAX_SLOTS), 2);
	pmap_destroy(p);
}

static void test_pointer(void **state)
{
	struct pmap *p = make(4 * MiB);
	u8 *hva = pmap_ptr(p, 0x1000, 4096);

	assert_non_null(hva);
	assert_ptr_equal(pmap_ptr(p, 0x1234, 1), hva + 0x234);
	assert_non_null(pmap_ptr(p, 0x9fffc, 4));
	assert_null(pmap_ptr(p, 0x9fffd, 4));
	assert_null(pmap_ptr(p, 0xbffff, 4));
	assert_non_null(pmap_ptr(p, 4 * MiB - 4, 4));
	assert_null(pmap_ptr(p, 4 * MiB - 4, 5));
	assert_null(pmap_ptr(p, 0x1000, ~0ull));
	assert_null(pmap_ptr(p, ~0ull - 1, 4));
	pmap_destroy(p);
}

static void test_copies(void **state)
{
	struct pmap *p = make(4 * MiB);
	u8 a[32], b[32];

	for (unsigned i = 0; i < sizeof(a); i++)
		a[i] = (u8)(i + 1);
	assert_int_equal(pmap_write(p, 0xff0, a, sizeof(a)), 0);
	assert_int_equal(pmap_read(p, 0xff0, b, sizeof(b)), 0);
	assert_memory_equal(a, b, sizeof(a));
	/* half outside: nothing at all happens */
	assert_int_equal(pmap_write(p, 0x9fff0, a, sizeof(a)), -EFAULT);
	assert_int_equal(pmap_read(p, 0x9fff0, b, 16), 0);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(b[i], 0);
	assert_int_equal(pmap_write(p, 4 * MiB - 8, a, 16), -EFAULT);
	assert_int_equal(*pmap_ptr(p, 4 * MiB - 8, 1), 0);
	assert_int_equal(pmap_zero(p, 4 * MiB - 8, 16), -EFAULT);
	assert_int_equal(pmap_read(p, ~0ull - 7, b, 16), -EFAULT);
	assert_int_equal(pmap_zero(p, 0xff8, 8), 0);
	assert_int_equal(pmap_read(p, 0xff0, b, sizeof(b)), 0);
	assert_memory_equal(a, b, 8);
	assert_int_equal(b[8] | b[15], 0);
	assert_memory_equal(a + 16, b + 16, 16);
	assert_int_equal(pmap_write(p, 0xdead0000, a, 0), 0);
	pmap_destroy(p);
}

static _Atomic u32 *mark_of(struct pmap *p, gpa_t gpa)
{
	const struct pmap_slot *s = pmap_slot(p, gpa);

	return &s->code_ver[(gpa - s->base) >> PAGE_SHIFT];
}

static void test_code_marks(void **state)
{
	struct pmap *p = make(4 * GiB);
	static const gpa_t pages[] = {0, 0x9f000, 0xc0000, 0xbffff000, 0x100000000, 0x13ffff000};
	u8 byte = 1;

	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		_Atomic u32 *m = mark_of(p, pages[i]);
		u32 v = pmap_code_mark(p, m);

		assert_int_equal(*m, v);
		assert_int_equal(v & 3, 3);
		assert_int_equal(pmap_code_mark(p, m), v); /* again: nothing new */
		assert_int_equal(pmap_write(p, pages[i] + 4095, &byte, 1), 0);
		assert_int_equal(*m, (v & ~3u) + PMAP_CODE_STEP);
		v = *m;
		assert_int_equal(pmap_write(p, pages[i], &byte, 1), 0);
		assert_int_equal(*m, v); /* not marked: the version stays */
	}
	pmap_destroy(p);
}

static void test_code_marks_by_range(void **state)
{
	struct pmap *p = make(4 * MiB);
	u32 v[4];

	for (unsigned i = 0; i < 4; i++)
		v[i] = pmap_code_mark(p, mark_of(p, 0x10000 + i * PAGE_SIZE));
	/* from the last byte of page 0 to the first of page 2 */
	assert_int_equal(pmap_zero(p, 0x10fff, PAGE_SIZE + 2), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(*mark_of(p, 0x10000 + i * PAGE_SIZE),
		                 (v[i] & ~3u) + PMAP_CODE_STEP);
	assert_int_equal(*mark_of(p, 0x13000), v[3]);
	/* reading and failed writes leave marks alone */
	assert_int_equal(pmap_read(p, 0x13000, v, sizeof(v)), 0);
	assert_int_equal(pmap_zero(p, 0x13000, 8 * MiB), -EFAULT);
	assert_int_equal(*mark_of(p, 0x13000) & 3, 3);
	pmap_destroy(p);
}

struct heard {
	struct pmap *p;
	unsigned marked, written;
	u64 page[4];
	u32 off[4], len[4];
	bool keep;
};

static void heard_marked(void *arg, u64 page)
{
	struct heard *h = arg;

	h->page[0] = page;
	h->marked++;
}

static void heard_written(void *arg, u64 page, u32 off, u32 len)
{
	struct heard *h = arg;

	h->page[h->written & 3] = page;
	h->off[h->written & 3] = off;
	h->len[h->written & 3] = len;
	h->written++;
	pmap_code_moved(h->p, page, h->keep);
}

static void test_code_hook(void **state)
{
	struct heard h = {.keep = true};
	const struct pmap_code_hook hook = {heard_marked, heard_written, &h};
	struct pmap *p = make(4 * GiB);
	u8 buf[PAGE_SIZE + 16] = {0};
	u32 v;

	h.p = p;
	p->code_hook = &hook;
	v = pmap_code_mark(p, mark_of(p, PCI_HOLE_END));
	assert_int_equal(h.marked, 1);
	assert_int_equal(h.page[0], PCI_HOLE_START >> PAGE_SHIFT); /* in RAM it follows */
	pmap_code_mark(p, mark_of(p, PCI_HOLE_END + 2 * PAGE_SIZE));
	assert_int_equal(h.marked, 2);
	assert_int_equal(pmap_write(p, PCI_HOLE_END + PAGE_SIZE - 8, buf, sizeof(buf)), 0);
	assert_int_equal(h.written, 2);
	assert_int_equal(h.page[0], PCI_HOLE_START >> PAGE_SHIFT);
	assert_int_equal(h.off[0], PAGE_SIZE - 8);
	assert_int_equal(h.len[0], 8);
	assert_int_equal(h.page[1], (PCI_HOLE_START >> PAGE_SHIFT) + 2);
	assert_int_equal(h.off[1], 0);
	assert_int_equal(h.len[1], 8);
	/* kept: another version under the same mark */
	assert_int_equal(*mark_of(p, PCI_HOLE_END), v + PMAP_CODE_STEP);
	h.keep = false;
	assert_int_equal(pmap_zero(p, PCI_HOLE_END + 0x123, 1), 0);
	assert_int_equal(h.written, 3);
	assert_int_equal(h.off[2], 0x123);
	assert_int_equal(*mark_of(p, PCI_HOLE_END), (v & ~3u) + 2 * PMAP_CODE_STEP);
	assert_int_equal(pmap_zero(p, PCI_HOLE_END + 0x123, 1), 0);
	assert_int_equal(h.written, 3);
	pmap_destroy(p);
}

/* Two that translate a page and two that write to it: when a write is over, no translation of
 * what was there before is left. Two writers at once are what it takes for a mark to be lost. */
struct contest {
	struct pmap *p;
	pthread_mutex_t lock;
	bool protected, live, stop;
	u32 read[2]; /* what the live translation was made of */
	unsigned stale, translated, writes[2];
};

struct contestant {
	struct contest *ct;
	unsigned n;
};

static void contest_marked(void *arg, u64 page)
{
	struct contest *ct = arg;

	pthread_mutex_lock(&ct->lock);
	ct->protected = true;
	pthread_mutex_unlock(&ct->lock);
}

static void contest_written(void *arg, u64 page, u32 off, u32 len)
{
	struct contest *ct = arg;

	pthread_mutex_lock(&ct->lock);
	ct->live = ct->protected = false;
	pmap_code_moved(ct->p, page, false);
	pthread_mutex_unlock(&ct->lock);
}

static void *contest_writer(void *arg)
{
	const struct contestant *me = arg;
	struct contest *ct = me->ct;

	for (u32 i = 1; !__atomic_load_n(&ct->stop, __ATOMIC_RELAXED); i++) {
		pmap_write(ct->p, 0x1000 + 4 * me->n, &i, sizeof(i));
		pthread_mutex_lock(&ct->lock);
		ct->stale += ct->live && ct->read[me->n] != i;
		pthread_mutex_unlock(&ct->lock);
		ct->writes[me->n] = i;
	}
	return NULL;
}

static void *contest_translator(void *arg)
{
	struct contest *ct = arg;

	while (!__atomic_load_n(&ct->stop, __ATOMIC_RELAXED)) {
		pmap_code_mark(ct->p, mark_of(ct->p, 0x1000));
		pthread_mutex_lock(&ct->lock);
		if (!ct->live && ct->protected && pmap_code_settled(ct->p, 1)) {
			ct->read[0] = *(volatile u32 *)(ct->p->hva + 0x1000);
			ct->read[1] = *(volatile u32 *)(ct->p->hva + 0x1004);
			ct->live = true;
			ct->translated++;
		}
		pthread_mutex_unlock(&ct->lock);
	}
	return NULL;
}

static void test_code_contest(void **state)
{
	struct contest ct = {.p = make(2 * MiB), .lock = PTHREAD_MUTEX_INITIALIZER};
	const struct pmap_code_hook hook = {contest_marked, contest_written, &ct};
	struct contestant writer[2] = {{&ct, 0}, {&ct, 1}};
	pthread_t t[4];

	ct.p->code_hook = &hook;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL,
		                                i < 2 ? contest_writer : contest_translator,
		                                i < 2 ? (void *)&writer[i] : &ct),
		                 0);
	usleep(1500000);
	__atomic_store_n(&ct.stop, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_true(ct.translated && ct.writes[0] && ct.writes[1]);
	assert_int_equal(ct.stale, 0);
	pmap_destroy(ct.p);
}

static void test_protected(void **state)
{
	struct pmap *p = make(4 * MiB);

	assert_null(p->bt_hva);
	assert_int_equal(pmap_create_protected(p), 0);
	assert_ptr_not_equal(p->hva, p->bt_hva);
	p->hva[0x1234] = 1;
	assert_int_equal(p->bt_hva[0x1234], 1);
	p->bt_hva[4 * MiB - 1] = 2;
	assert_int_equal(p->hva[4 * MiB - 1], 2);
	assert_int_equal(pmap_page(p, p->hva + 0x1fff), 1);
	pmap_destroy(p);
}

static void test_single(void **state)
{
	struct pmap *p = make(2 * MiB);

	p->single = true;
	assert_int_equal(pmap_code_mark(p, mark_of(p, 0x1000)) & 3, 3);
	pmap_destroy(p);
	pmap_destroy(NULL);
}

static void test_too_large(void **state)
{
	struct pmap *p = NULL;

	assert_int_not_equal(pmap_create(&p, 1ull << 62), 0);
	assert_null(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small),      cmocka_unit_test(test_pci_hole),
		cmocka_unit_test(test_pointer),    cmocka_unit_test(test_copies),
		cmocka_unit_test(test_code_marks), cmocka_unit_test(test_code_marks_by_range),
		cmocka_unit_test(test_code_hook),  cmocka_unit_test(test_code_contest),
		cmocka_unit_test(test_protected),  cmocka_unit_test(test_single),
		cmocka_unit_test(test_too_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
