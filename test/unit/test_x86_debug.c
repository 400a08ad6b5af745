// SPDX-License-Identifier: MIT
/* Debug registers and breakpoints against SDM 3B chapter 17, the debugger's breakpoints, and the
 * dump. */
#include "cpurig.h"

static int setup(void **state)
{
	struct cpurig *r = malloc(sizeof(*r));

	if (!r)
		return -1;
	rig_init(r, 1);
	rig_long_mode(r);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

#define DR7(n, rw, len) (3ull << (2 * (n)) | (u64)((len) << 2 | (rw)) << (16 + 4 * (n)))
enum { EXEC, WRITE, IO, ACCESS };
enum { LEN1, LEN2, LEN8, LEN4 };

static void test_registers(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;

	for (volatile unsigned i = 0; i < 4; i++) {
		assert_ok(c, x86_mov_to_dr(c, i, 0xdeadbeef00000000 + i));
		assert_int_equal(x86_mov_from_dr(c, i), 0xdeadbeef00000000 + i);
	}
	assert_ok(c, x86_mov_to_dr(c, 6, 0));
	assert_int_equal(x86_mov_from_dr(c, 6), 0xffff0ff0);
	assert_ok(c, x86_mov_to_dr(c, 6, 0xffffffff));
	assert_int_equal(x86_mov_from_dr(c, 6), 0xffffefff);
	assert_ok(c, x86_mov_to_dr(c, 7, 0xffffdfff)); /* all but GD */
	assert_int_equal(x86_mov_from_dr(c, 7), 0xffff07ff);
	assert_gp(c, x86_mov_to_dr(c, 6, 1ull << 32));
	assert_gp(c, x86_mov_to_dr(c, 7, 1ull << 32));
	/* 4 and 5 are 6 and 7, unless CR4.DE. */
	assert_ok(c, x86_mov_to_dr(c, 5, 0x400));
	assert_int_equal(c->dr[7], 0x400);
	assert_ok(c, x86_mov_to_dr(c, 4, DR6_BS));
	assert_int_equal(x86_mov_from_dr(c, 4), 0xffff4ff0);
	assert_ok(c, x86_mov_to_cr(c, 4, c->cr4 | CR4_DE));
	assert_ud(c, x86_mov_from_dr(c, 4));
	assert_ud(c, x86_mov_to_dr(c, 5, 0));
}

static void test_general_detect(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;

	assert_ok(c, x86_mov_to_dr(c, 7, DR7_GD));
	assert_int_equal(RAISED(c, x86_mov_from_dr(c, 0)), X86_DB);
	assert_int_equal(c->ev.type, EV_FAULT);
	assert_int_equal(c->ev.dr6, DR6_BD);
	assert_int_equal(RAISED(c, x86_mov_to_dr(c, 7, 0)), X86_DB);
	assert_int_equal(c->dr[7], 0x400 | DR7_GD);
}

static void test_step_mode(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	x86_update_step(c);
	assert_false(c->step);
	x86_set_rflags(c, X86_RFLAGS_TF);
	assert_true(c->step);
	x86_set_rflags(c, 0);
	assert_false(c->step);
	assert_ok(c, x86_mov_to_dr(c, 7, 2));
	assert_true(c->step);
	assert_ok(c, x86_mov_to_dr(c, 7, 0));
	assert_false(c->step);
	r->vm.nr_breakpoints = 1;
	x86_update_step(c);
	assert_true(c->step);
	r->vm.nr_breakpoints = 0;
	c->vcpu->single_step = true;
	x86_update_step(c);
	assert_true(c->step);
	c->vcpu->single_step = false;
	r->vm.trace.mask = TRACE_EXEC;
	x86_update_step(c);
	assert_true(c->step);
}

static void test_code(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;

	c->dr[1] = 0x1234;
	c->dr[3] = 0x1234;
	c->rip = 0x1234;
	assert_ok(c, x86_check_code_bp(c)); /* not enabled */
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(1, EXEC, LEN1)));
	assert_int_equal(RAISED(c, x86_check_code_bp(c)), X86_DB);
	assert_int_equal(c->ev.type, EV_FAULT);
	assert_int_equal(c->ev.dr6, 2);
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(1, EXEC, LEN1) | DR7(3, EXEC, LEN1)));
	assert_int_equal(RAISED(c, x86_check_code_bp(c)), X86_DB);
	assert_int_equal(c->ev.dr6, 10);
	c->rip++;
	assert_ok(c, x86_check_code_bp(c));
	c->rip--;
	x86_set_rflags(c, X86_RFLAGS_RF);
	assert_ok(c, x86_check_code_bp(c));
	x86_set_rflags(c, 0);
	c->shadow_db = true; /* behind MOV SS */
	assert_ok(c, x86_check_code_bp(c));
	c->shadow_db = false;
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(1, WRITE, LEN1)));
	assert_ok(c, x86_check_code_bp(c));
	/* Outside 64-bit code the address is the linear one. */
	c->seg[CS].ar = (c->seg[CS].ar & ~SEG_L) | SEG_DB;
	c->seg[CS].base = 0x1000;
	x86_update_mode(c);
	c->rip = 0x234;
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(1, EXEC, LEN1)));
	assert_int_equal(RAISED(c, x86_check_code_bp(c)), X86_DB);
}

static u64 hits(struct x86_cpu *c, gva_t addr, unsigned size, bool write)
{
	c->dr6_pending = 0;
	x86_check_data_bp(c, addr, size, write);
	return c->dr6_pending;
}

static void test_data(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;

	c->dr[0] = 0x2003; /* of four bytes: 0x2000 .. 0x2003 */
	c->dr[2] = 0x2ff8;
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(0, WRITE, LEN4) | DR7(2, ACCESS, LEN8)));
	assert_int_equal(hits(c, 0x2000, 1, true), 1);
	assert_int_equal(hits(c, 0x2003, 1, true), 1);
	assert_int_equal(hits(c, 0x1ffd, 4, true), 1);
	assert_int_equal(hits(c, 0x1ffc, 4, true), 0);
	assert_int_equal(hits(c, 0x2004, 8, true), 0);
	assert_int_equal(hits(c, 0x2000, 4, false), 0);
	assert_int_equal(hits(c, 0x2fff, 1, false), 4);
	assert_int_equal(hits(c, 0x2ff7, 1, true), 0);
	assert_int_equal(hits(c, 0x3000, 1, true), 0);
	assert_int_equal(hits(c, 0x2000, 0x1000, true), 5);
	assert_int_equal(hits(c, ~0ull - 3, 8, true), 0); /* wraps to 0..3 */
	assert_true(x86_page_watched(c, 0x2000));
	assert_false(x86_page_watched(c, 0x1000));
	assert_false(x86_page_watched(c, 0x3000));
	c->dr[0] = 0;
	assert_int_equal(hits(c, ~0ull - 3, 8, true), 1);
	/* An I/O breakpoint is none on memory, an instruction's neither. */
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(0, IO, LEN4) | DR7(2, EXEC, LEN1)));
	assert_int_equal(hits(c, 0, 4, true), 0);
	assert_false(x86_page_watched(c, 0));
}

/* Watched pages are not cached, so a second access is seen as well. */
static void test_data_through_mmu(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;

	assert_ok(c, mmu_st(c, 0x5000, 1, 8));
	c->dr[0] = 0x5008;
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(0, WRITE, LEN8)));
	for (int i = 0; i < 2; i++) {
		c->dr6_pending = 0;
		mmu_st(c, 0x5000, 1, 8);
		assert_int_equal(c->dr6_pending, 0);
		mmu_st(c, 0x500c, 1, 4);
		assert_int_equal(c->dr6_pending, 1);
	}
	c->dr6_pending = 0;
	mmu_st(c, 0x5004, ~0ull, 8); /* partly */
	assert_int_equal(c->dr6_pending, 1);
	c->dr[0] = 0x6000;
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(0, WRITE, LEN1)));
	c->dr6_pending = 0;
	mmu_st(c, 0x5ffd, 0, 4); /* its last byte, on the second page */
	assert_int_equal(c->dr6_pending, 1);
}

static void test_io(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;

	c->dr[1] = 0x3f8;
	assert_ok(c, x86_mov_to_dr(c, 7, DR7(1, IO, LEN2)));
	x86_check_io_bp(c, 0x3f8, 1);
	assert_int_equal(c->dr6_pending, 0); /* needs CR4.DE */
	assert_ok(c, x86_mov_to_cr(c, 4, c->cr4 | CR4_DE));
	x86_in(c, 0x3f7, 1);
	assert_int_equal(c->dr6_pending, 0);
	x86_in(c, 0x3f7, 4);
	assert_int_equal(c->dr6_pending, 2);
	c->dr6_pending = 0;
	x86_out(c, 0x3f9, 0, 1);
	assert_int_equal(c->dr6_pending, 2);
}

static void test_debugger(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	struct vcpu *v = c->vcpu;

	r->vm.breakpoint[0] = (struct breakpoint){BP_SOFT, 0x1000, 1};
	r->vm.breakpoint[1] = (struct breakpoint){BP_WRITE, 0x7ffe, 4};
	r->vm.breakpoint[2] = (struct breakpoint){BP_READ, 0x9000, 1};
	r->vm.nr_breakpoints = 3;
	c->rip = 0x1000;
	assert_true(x86_debugger_bp(c));
	c->rip = 0x7ffe;
	assert_false(x86_debugger_bp(c));
	assert_true(x86_page_watched(c, 0x7000));
	assert_true(x86_page_watched(c, 0x8000));
	assert_true(x86_page_watched(c, 0x9000));
	assert_false(x86_page_watched(c, 0x1000));
	assert_int_equal(hits(c, 0x7ffe, 4, false), 0);
	assert_int_equal(v->debug.reason, DEBUG_NONE);
	hits(c, 0x8001, 1, true);
	assert_int_equal(v->debug.reason, DEBUG_WATCH);
	assert_int_equal(v->debug.addr, 0x7ffe);
	assert_int_equal(c->dr6_pending, 0); /* the guest does not notice */
	v->debug.reason = DEBUG_NONE;
	hits(c, 0x9000, 8, true);
	assert_int_equal(v->debug.reason, DEBUG_NONE);
	hits(c, 0x8ff9, 8, false);
	assert_int_equal(v->debug.reason, DEBUG_WATCH);
}

static void test_dump(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	/* mov eax, 1; xor ecx, ecx; push rbp; mov rbp, rsp; => ud2; nop */
	static const u8 code[] = {0xb8, 1,    0,    0,    0,    0x31, 0xc9,
	                          0x55, 0x48, 0x89, 0xe5, 0x0f, 0x0b, 0x90};
	char *text = NULL;
	size_t size;
	FILE *out;

	memset(r->vm.pmap->hva + 0x20000, 0x90, 0x1000);
	assert_int_equal(pmap_write(r->vm.pmap, 0x20100, code, sizeof(code)), 0);
	c->rip = 0x20100 + 11;
	c->gpr[RSP] = 0x30000;
	c->gpr[RBX] = 0x1122334455667788;
	c->gpr[R15] = 0xf00d;
	c->ev = (struct x86_event){
		.type = EV_FAULT, .vector = X86_PF, .has_err = true, .err = 2, .cr2 = 0xdead000};
	mmu_st(c, 0x30000, 0xcafebabe, 8);
	out = open_memstream(&text, &size);
	assert_non_null(out);
	x86_dump(c->vcpu, out);
	fclose(out);
	assert_non_null(strstr(text, "vCPU 0: 64-bit mode, CPL 0"));
	assert_non_null(strstr(text, "rbx 1122334455667788"));
	assert_non_null(strstr(text, "r15 000000000000f00d"));
	assert_non_null(strstr(text, "PE ET NE WP PG"));
	assert_non_null(strstr(text, "LME LMA"));
	assert_non_null(strstr(text, "vector 14, error code 0x2, address 0xdead000"));
	assert_non_null(strstr(text, "   0000000000020107: 55 "));
	assert_non_null(strstr(text, "mov rbp, rsp\n=> 000000000002010b: 0f 0b "));
	assert_non_null(strstr(text, "ud2\n   000000000002010d: 90 "));
	assert_non_null(strstr(text, "00000000cafebabe"));
	free(text);

	/* Nothing there to read: said, not crashed on. */
	c->rip = 0xffff800000000000;
	c->gpr[RSP] = 0xffff800000000000;
	out = open_memstream(&text, &size);
	assert_non_null(out);
	x86_dump(c->vcpu, out);
	fclose(out);
	assert_non_null(strstr(text, "code: not readable"));
	assert_non_null(strstr(text, "stack: not readable"));
	free(text);

	/* 16-bit real mode. */
	c->vcpu->arch->reset(c->vcpu);
	c->vcpu->arch->sipi(c->vcpu, 0x20);
	c->rip = 0x10b;
	out = open_memstream(&text, &size);
	assert_non_null(out);
	x86_dump(c->vcpu, out);
	fclose(out);
	assert_non_null(strstr(text, "real mode"));
	assert_non_null(strstr(text, "=> 000000000000010b: 0f 0b "));
	free(text);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_registers), T(test_general_detect), T(test_step_mode),
		T(test_code),      T(test_data),           T(test_data_through_mmu),
		T(test_io),        T(test_debugger),       T(test_dump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
