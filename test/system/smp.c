// SPDX-License-Identifier: MIT
/* Four CPUs: LOCK, the order of loads and stores (SDM 3A 9.2), code that another CPU writes
 * (9.1.3), shootdown of translations, INIT and SIPI. */
#include "rt.h"

#define CODE (VA + 0x10000)
#define DATA (VA + 0x200000)

static struct {
	volatile u64 go, stop, seq, ready;
	u8 pad0[64];
	volatile u64 counter, other;
	u8 pad1[64];
	volatile u64 lock, ticket, turn;
	u8 pad2[64];
	volatile u64 x;
	u8 pad3[64];
	volatile u64 y;
	u8 pad4[64];
	volatile u64 bad, seen, bad_value, acks;
	u8 pad5[64];
	volatile u64 pair[2] __attribute__((aligned(16)));
} s __attribute__((aligned(64)));

static u64 me(void)
{
	return this_cpu()->index;
}

static void pause(void)
{
	asm volatile("pause" ::: "memory");
}

static u64 xadd(volatile u64 *p, u64 v)
{
	asm volatile("lock xaddq %0, %1" : "+r"(v), "+m"(*p)::"memory", "cc");
	return v;
}

/* All CPUs meet; false when one has not come for 20 s. */
static bool meet(void)
{
	u64 n = nr_cpus(), round = xadd(&s.ready, 1) / n, until = rdtsc() + 20000 * tsc_per_ms();

	while (s.ready < (round + 1) * n && rdtsc() < until)
		pause();
	return s.ready >= (round + 1) * n;
}

static u64 until;

static void begin(void)
{
	memset(&s, 0, sizeof(s));
	until = rdtsc() + 4000 * tsc_per_ms();
}

/* Where all CPUs have to be awake for each round, a busy host makes it long: CPU 0 ends it early.
 */
static bool enough(u64 round)
{
	return round > 3 && rdtsc() > until;
}

/* ---- LOCK ---- */

#define ROUNDS 20000u

static void spin_lock(void)
{
	u64 one = 1;

	for (;;) {
		asm volatile("xchgq %0, %1" : "+r"(one), "+m"(s.lock)::"memory");
		if (!one)
			return;
		while (s.lock)
			pause();
	}
}

static void count_on(void *how)
{
	meet();
	for (u64 i = 0; i < ROUNDS; i++) {
		u64 a = 1, old, mine;

		switch (s.go) {
		case 0:
			asm volatile("lock incq %0" : "+m"(s.counter)::"cc");
			break;
		case 1:
			asm volatile("lock addl $1, %0" : "+m"(s.counter)::"cc");
			break;
		case 2:
			asm volatile("lock xaddq %0, %1" : "+r"(a), "+m"(s.counter)::"cc");
			break;
		case 3:
			do {
				old = s.counter;
				mine = old;
				asm volatile("lock cmpxchgq %2, %1"
				             : "+a"(mine), "+m"(s.counter)
				             : "r"(old + 1)
				             : "cc");
			} while (mine != old);
			break;
		case 4: {
			u64 lo = s.pair[0], hi = s.pair[1];
			bool ok;

			do
				asm volatile("lock cmpxchg16b %1"
				             : "=@ccz"(ok), "+m"(s.pair), "+a"(lo), "+d"(hi)
				             : "b"(lo + 1), "c"(hi + 3));
			while (!ok);
			break;
		}
		case 5:
			spin_lock();
			s.counter++;
			s.other += 3;
			s.lock = 0;
			break;
		case 6:
			a = xadd(&s.ticket, 1);
			while (s.turn != a)
				pause();
			s.counter++;
			s.turn++;
			break;
		case 7: /* a lock bit and a counter in one word */
			do
				asm volatile("lock btsq $0, %1"
				             : "=@ccc"(old), "+m"(s.lock)::"memory");
			while (old & 1);
			s.counter++;
			asm volatile("lock andq $-2, %0" : "+m"(s.lock)::"memory", "cc");
			break;
		case 8: /* unaligned within its line */
			asm volatile("lock addl $1, 3(%0)" ::"r"(&s.pad1[8]) : "memory", "cc");
			break;
		}
	}
}

static void locked(u64 how)
{
	u64 want = (u64)ROUNDS * nr_cpus();

	begin();
	s.go = how;
	smp_all(count_on);
	if (how == 4) {
		expect_eq(s.pair[0], want, "low half");
		expect_eq(s.pair[1], 3 * want, "high half");
	} else if (how == 8) {
		expect_eq(*(u32 *)&s.pad1[11], want, "count");
	} else {
		expect_eq(s.counter, want, "count");
		expect_eq(s.other, how == 5 ? 3 * want : 0, "other count");
	}
}

/* ---- order of memory ---- */

static void message_on(void *arg)
{
	meet();
	if (me() == 0) {
		for (u64 i = 1; i <= 100000; i++) {
			s.x = i;
			s.y = i;
		}
		s.stop = 1;
		return;
	}
	while (!s.stop) {
		u64 flag = s.y, data = s.x;

		if (data < flag && !xadd(&s.bad, 1))
			s.bad_value = flag;
	}
}

static void message_passing(u64 arg)
{
	begin();
	smp_all(message_on);
	expect_eq(s.bad, 0, "data older than the flag");
}

/* Two CPUs, one round: r0 and r1 by `kind`. */
static volatile u64 result[2];

static void litmus_on(void *arg)
{
	u64 n = me(), r;

	for (u64 i = 0; i < 1500; i++) {
		if (n > 1)
			return;
		if (n == 0) {
			s.x = s.y = 0;
			s.stop = enough(i);
		}
		barrier();
		xadd(&s.acks, 1); /* both at the line */
		while (s.acks < 4 * i + 2)
			pause();
		if (s.stop)
			return;
		if (s.go == 0) { /* load buffering */
			r = n ? s.y : s.x;
			*(n ? &s.x : &s.y) = 1;
		} else { /* store buffering; 2: with MFENCE */
			*(n ? &s.x : &s.y) = 1;
			if (s.go == 2)
				asm volatile("mfence" ::: "memory");
			r = n ? s.y : s.x;
		}
		result[n] = r;
		barrier();
		xadd(&s.acks, 1);
		while (s.acks < 4 * i + 4)
			pause();
		if (n == 0) {
			s.seen += s.go == 0 ? result[0] && result[1] : !result[0] && !result[1];
			s.counter = i + 1;
		}
	}
}

static void litmus(u64 kind)
{
	begin();
	s.go = kind;
	smp_all(litmus_on);
	if (kind == 1)
		note(" (both loads before both stores: %u of %u, allowed)", s.seen, s.counter);
	else
		expect_eq(s.seen, 0, "forbidden results");
}

/* Readers of two writers' stores agree about their order. */
static volatile u64 iriw[4];

static void iriw_on(void *arg)
{
	u64 n = me();

	for (u64 i = 1; i <= 800 && !s.stop; i++) {
		meet();
		if (n == 0)
			s.x = i;
		else if (n == 1)
			s.y = i;
		else if (n == 2)
			iriw[0] = s.x, iriw[1] = s.y;
		else
			iriw[2] = s.y, iriw[3] = s.x;
		meet();
		if (n == 0) {
			s.bad += iriw[0] == i && iriw[1] != i && iriw[2] == i && iriw[3] != i;
			s.stop = enough(i);
			s.seen = i;
		}
		meet();
	}
}

static void independent_writes(u64 arg)
{
	begin();
	smp_all(iriw_on);
	expect_eq(s.bad, 0, "readers that disagree");
	note(" (%u rounds)", s.seen);
}

/* ---- code that another CPU writes ---- */

/* mov $n, %eax; ret at an address where the immediate is aligned */
static void put_const(u64 at, u32 n)
{
	u8 *p = (u8 *)at;

	p[0] = 0xb8;
	memcpy(p + 1, &n, 4);
	p[5] = 0xc3;
}

#define FN (CODE + 3) /* the immediate is at a multiple of 4 */

static void written_on(void *arg)
{
	for (u64 i = 1; i <= 1500 && !s.stop; i++) {
		if (me() == 0) {
			put_const(FN, (u32)i);
			barrier();
			s.seq = i;
		} else {
			while (s.seq < i)
				pause();
			serialize();
			if ((u32)CALL(FN) != i && !xadd(&s.bad, 1))
				s.bad_value = i;
		}
		meet();
		if (me() == 0)
			s.stop = enough(i);
		if (!meet())
			return;
	}
}

static void written_code(u64 arg)
{
	begin();
	map_new(CODE, KRWX);
	smp_all(written_on);
	expect_eq(s.bad, 0, "calls of old code");
}

/* No serialization: old or new, never backwards, and new after a while. */
static void live_on(void *arg)
{
	meet();
	if (me() == 0) {
		u64 t = rdtsc(), wait = tsc_per_ms() / 50;

		for (u32 i = 1; i <= 300; i++) {
			*(volatile u32 *)(FN + 1) = i;
			while (rdtsc() < t + i * wait)
				;
		}
		t = rdtsc() + 15000 * tsc_per_ms();
		while (s.seen < nr_cpus() - 1 && rdtsc() < t)
			pause();
		s.stop = 1;
		return;
	}
	for (u32 last = 0; !s.stop && last < 300;) {
		u32 now = (u32)CALL(FN);

		if (now < last || now > 300)
			s.bad++;
		last = now;
		if (now == 300)
			xadd(&s.seen, 1);
	}
}

static void live_code(u64 arg)
{
	begin();
	map_new(CODE, KRWX);
	put_const(FN, 0);
	smp_all(live_on);
	expect_eq(s.bad, 0, "results out of order");
	expect_eq(s.seen, nr_cpus() - 1, "CPUs that saw the last code");
}

/* A loop that never leaves its code; another CPU puts a NOP over its jump. */
SNIPPET(endless, "xorl %eax, %eax\n"
                 ".balign 8\n"
                 "endless_jump: jmp endless_jump; incl %eax; ret")
extern u8 endless_jump[];

static void freed_on(void *arg)
{
	u64 jump = CODE + (u64)(endless_jump - endless);

	for (unsigned i = 0; i < 30 && !s.stop; i++) {
		if (me() == 0) {
			code_put(CODE, endless);
			meet();
			delay_ns(200000);
			*(volatile u16 *)jump = 0x9090;
		} else {
			meet();
			serialize();
			if ((u32)CALL(CODE) != 1)
				s.bad++;
		}
		meet();
		if (me() == 0)
			s.stop = enough(i);
		if (!meet()) {
			s.bad++;
			return;
		}
	}
}

static void freed_loop(u64 arg)
{
	begin();
	map_new(CODE, KRWX);
	smp_all(freed_on);
	expect_eq(s.bad, 0, "loops that did not end");
}

/* Linux's text_poke: INT3 over the first byte, the rest, the first byte, with all CPUs serialized
 * between. */
static bool on_sync(struct regs *r)
{
	serialize();
	apic_write(APIC_EOI, 0);
	xadd(&s.acks, 1);
	return true;
}

static void sync_others(void)
{
	s.acks = 0;
	apic_write(APIC_ICR, ICR_OTHERS | ICR_ASSERT | 0x60);
	while (s.acks < nr_cpus() - 1)
		pause();
}

static bool on_int3(struct regs *r)
{
	if (r->rip - 1 != FN)
		return false;
	r->rip += 4;
	r->rax = 0xffff;
	return true;
}

static void poke_on(void *arg)
{
	set_handler(0x60, on_sync);
	set_handler(V_BP, on_int3);
	meet();
	if (me() == 0) {
		for (u32 i = 1; i <= 300 && !enough(i); i++) {
			*(volatile u8 *)FN = 0xcc;
			sync_others();
			*(volatile u32 *)(FN + 1) = i;
			sync_others();
			*(volatile u8 *)FN = 0xb8;
			sync_others();
			s.seq = i;
		}
		s.stop = 1;
		return;
	}
	asm volatile("sti");
	while (!s.stop) {
		u32 least = (u32)s.seq, got = (u32)CALL(FN);

		/* In the middle of a step the INT3 stands for a result. */
		if (got != 0xffff && (got < least || got > least + 2) && !xadd(&s.bad, 1))
			s.bad_value = got;
		xadd(&s.seen, got == 0xffff);
	}
	asm volatile("cli");
}

static void text_poke(u64 arg)
{
	begin();
	map_new(CODE, KRWX);
	put_const(FN, 0);
	smp_all(poke_on);
	expect_eq(s.bad, 0, "wrong results");
	note(" (%u rounds, %u breakpoints hit)", s.seq, s.seen);
}

/* Code runs on one CPU while others store data on its page. */
static void beside_on(void *arg)
{
	u64 n = me();

	meet();
	if (n == 0) {
		while (!*(volatile u64 *)(CODE + 512))
			pause();
		for (unsigned i = 0; i < 300; i++)
			if ((u32)CALL(FN) != 4711)
				s.bad++;
		s.stop = 1;
		return;
	}
	while (!s.stop)
		++*(volatile u64 *)(CODE + 512 * n);
}

static void data_beside(u64 arg)
{
	begin();
	map_new(CODE, KRWX);
	put_const(FN, 4711);
	smp_all(beside_on);
	expect_eq(s.bad, 0, "wrong results");
}

/* ---- shootdown ---- */

static bool on_shoot(struct regs *r)
{
	invlpg(DATA);
	invlpg(CODE);
	apic_write(APIC_EOI, 0);
	xadd(&s.acks, 1);
	return true;
}

static u64 pages[2];

/* Pages hold the number of their generation; a page that was given up holds poison. */
static void shoot_on(void *code)
{
	set_handler(0x61, on_shoot);
	meet();
	if (me() == 0) {
		for (u64 g = 1; g <= 300 && !enough(g); g++) {
			u64 pa = pages[g & 1];

			if (s.go)
				put_const(pa, (u32)g);
			else
				*(volatile u64 *)pa = g;
			barrier();
			*pte_of(0, s.go ? CODE : DATA, 0) = pa | KRWX;
			barrier();
			invlpg(s.go ? CODE : DATA);
			s.acks = 0;
			apic_write(APIC_ICR, ICR_OTHERS | ICR_ASSERT | 0x61);
			while (s.acks < nr_cpus() - 1)
				pause();
			pa = pages[~g & 1];
			if (s.go)
				put_const(pa, 0);
			else
				*(volatile u64 *)pa = 0;
			barrier();
			s.seq = g;
		}
		s.stop = 1;
		return;
	}
	asm volatile("sti");
	while (!s.stop) {
		u64 least = s.seq, got;

		asm volatile("cli");
		got = s.go ? (u32)CALL(CODE) : *(volatile u64 *)DATA;
		asm volatile("sti; nop");
		if (got < least && !xadd(&s.bad, 1))
			s.bad_value = got;
		xadd(&s.seen, 1);
	}
	asm volatile("cli");
}

static void shootdown(u64 code)
{
	begin();
	s.go = code;
	for (unsigned i = 0; i < 2; i++) {
		pages[i] = page_alloc();
		if (code)
			put_const(pages[i], 0);
	}
	map(0, code ? CODE : DATA, pages[0], KRWX);
	smp_all(shoot_on);
	expect_eq(s.bad, 0, "stale results");
	note(" (%u rounds, %u looks)", s.seq, s.seen);
}

/* ---- interprocessor interrupts ---- */

static volatile u64 got_ipi[MAX_CPUS];
static bool on_ping(struct regs *r)
{
	got_ipi[me()]++;
	apic_write(APIC_EOI, 0);
	return true;
}

/* Round the ring, each CPU waking the next from HLT. */
static void ring_on(void *arg)
{
	u64 n = me(), next = (n + 1) % nr_cpus();

	set_handler(0x62, on_ping);
	got_ipi[n] = 0;
	meet();
	if (n == 0)
		ipi((unsigned)next, 0x62 | ICR_ASSERT);
	for (u64 i = 0; i < 300; i++) {
		while (got_ipi[n] <= i)
			asm volatile("sti; hlt; cli" ::: "memory");
		if (n || i < 299)
			ipi((unsigned)next, 0x62 | ICR_ASSERT);
	}
}

static void ring(u64 arg)
{
	begin();
	smp_all(ring_on);
	for (unsigned i = 0; i < nr_cpus(); i++)
		expect_eq(got_ipi[i], 300, "interrupts");
}

/* ---- NMI, INIT and SIPI for a CPU that is busy ---- */

SNIPPET(spin, "1: jmp 1b")
SNIPPET(spin_string, "1: movq %rbx, %rdi; movl $4096, %ecx; rep stosb; jmp 1b")
static const u8 *const busy_code[] = {spin, spin_string};
static struct regs caught;

static void busy_on(void *which)
{
	struct regs r;

	regs_kernel(&r, (u64)busy_code[(u64)which], DATA + 2048);
	r.rbx = DATA + PAGE;
	s.ready = 1;
	run(&r);
	caught = r;
}

static void nmi_busy(u64 which)
{
	begin();
	map_range(DATA, 2, KRWX);
	for (unsigned i = 0; i < 20 && !case_bad(); i++) {
		s.ready = 0;
		smp_call(1, busy_on, (void *)which);
		while (!s.ready)
			pause();
		delay_ns(100000);
		ipi(1, ICR_NMI | ICR_ASSERT);
		smp_wait(1);
		expect_eq(caught.vector, V_NMI, "vector");
		expect(caught.rip - (u64)busy_code[which] < 16);
	}
}

static void halt_on(void *arg)
{
	s.ready = 1;
	for (;;)
		asm volatile("cli; hlt");
}

static void mark_on(void *arg)
{
	s.x = (u64)arg;
}

extern volatile u32 cpus_entered;

static void restart(u64 which)
{
	begin();
	map_range(DATA, 2, KRWX);
	for (unsigned i = 0; i < 10 && !case_bad(); i++) {
		struct cpu *c = cpu_of(1);

		s.ready = 0;
		smp_call(1, which == 2 ? halt_on : busy_on, (void *)which);
		while (!s.ready)
			pause();
		delay_ns(50000);
		ipi(1, ICR_INIT | ICR_ASSERT);
		delay_ns(200000);
		c->fn = NULL;
		cpus_entered = 1;
		ipi(1, ICR_SIPI | ICR_ASSERT | AP_START >> 12);
		smp_wait(1);
		s.x = 0;
		smp_call(1, mark_on, (void *)(u64)(i + 1));
		smp_wait(1);
		expect_eq(s.x, i + 1, "mark of the CPU that was started again");
	}
}

static const struct test_case cases[] = {
	{"LOCK INC", locked, 0},
	{"LOCK ADD", locked, 1},
	{"LOCK XADD", locked, 2},
	{"LOCK CMPXCHG", locked, 3},
	{"LOCK CMPXCHG16B", locked, 4},
	{"XCHG spinlock", locked, 5},
	{"ticket lock", locked, 6},
	{"LOCK BTS and LOCK AND", locked, 7},
	{"LOCK, unaligned", locked, 8},
	{"message passing", message_passing, 0},
	{"load buffering", litmus, 0},
	{"store buffering", litmus, 1},
	{"store buffering with MFENCE", litmus, 2},
	{"independent reads of independent writes", independent_writes, 0},
	{"code written by another CPU, serialized", written_code, 0},
	{"code written by another CPU while it runs", live_code, 0},
	{"endless loop ended by another CPU's store", freed_loop, 0},
	{"text_poke", text_poke, 0},
	{"data beside running code", data_beside, 0},
	{"shootdown of data", shootdown, 0},
	{"shootdown of code", shootdown, 1},
	{"IPIs round the CPUs", ring, 0},
	{"NMI for a CPU in a loop", nmi_busy, 0},
	{"NMI for a CPU in string instructions", nmi_busy, 1},
	{"INIT and SIPI for a CPU in a loop", restart, 0},
	{"INIT and SIPI for a CPU in string instructions", restart, 1},
	{"INIT and SIPI for a halted CPU", restart, 2},
};
TOPIC(smp, 4, cases);
